// A swarm's last minutes: four figures, each with its curve.

import { figure, make, setText } from "./dom.js";

const KEPT_S = 300;
const LEAST_S = 60;
const WINDOW_S = 5;
const HEIGHT = 40;
const SVG = "http://www.w3.org/2000/svg";

const FIGURES = [
  ["tokens/s", tokensPerSecond],
  ["streams", (samples, at) => samples[at].streams, "stream"],
  ["waiting", (samples, at) => samples[at].waiting],
  ["ms per token", milliseconds],
];

export class Strip {
  #samples = [];
  #tiles;

  constructor(element) {
    this.#tiles = FIGURES.map(([unit, value, one = unit]) => ({ unit, value, one, ...tile(unit) }));
    element.append(...this.#tiles.map(({ box }) => box));
  }

  /** Takes over the samples from before this page was opened, or from while it heard nothing. */
  recall(history, now) {
    this.#samples = history.map(({ ago_s, ...figures }) => ({ at: now - ago_s, ...figures }));
  }

  /** Adds the latest status once a second, whether it is new or not. */
  sample(status, now) {
    const samples = this.#samples;
    samples.push({ at: now, tokens: status.tokens, streams: status.streams, waiting: status.waiting });
    while (samples[0].at < now - KEPT_S) samples.shift();
    for (const { unit, value, one, number, word, curve } of this.#tiles) {
      const values = samples.map((_, at) => value(samples, at));
      setText(number, values.at(-1) === null ? "–" : figure(values.at(-1)));
      setText(word, values.at(-1) === 1 ? one : unit);
      curve.setAttribute("d", path(values));
    }
  }
}

function tokensPerSecond(samples, at) {
  const from = Math.max(0, at - WINDOW_S);
  const seconds = samples[at].at - samples[from].at;
  return seconds > 0 ? Math.max(0, samples[at].tokens - samples[from].tokens) / seconds : 0;
}

/** Streams over their tokens a second, which is Little's law; null if nothing runs. */
function milliseconds(samples, at) {
  const rate = tokensPerSecond(samples, at);
  return rate && samples[at].streams ? (1000 * samples[at].streams) / rate : null;
}

/** The curve of these values. It is as wide as there are samples, except in the first minute. */
function path(values) {
  const most = Math.max(1, ...values);
  const step = KEPT_S / Math.max(LEAST_S, values.length - 1);
  const x = (at) => (KEPT_S - step * (values.length - 1 - at)).toFixed(1);
  let pen = "M";
  let drawn = "";
  values.forEach((value, at) => {
    if (value === null) pen = "M";
    else drawn += `${pen}${x(at)} ${(HEIGHT - 2 - ((HEIGHT - 4) * value) / most).toFixed(1)}`, (pen = "L");
  });
  return drawn;
}

function tile(unit) {
  const curve = document.createElementNS(SVG, "path");
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${KEPT_S} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.append(curve);
  const number = make("strong", {}, "–");
  const word = make("span", {}, unit);
  const box = make("div", { class: "tile" }, make("p", {}, number, word), svg);
  return { box, number, word, curve };
}
