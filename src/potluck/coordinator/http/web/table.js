// A model's table of nodes: layers from left to right, and a row for each node.

import { figure, make, setText } from "./dom.js";

const ENGINES = { llamacpp: "llama.cpp", transformers: "transformers" };
const UNITS = [["h", 3600], ["min", 60], ["s", 1]];
const WINDOW_S = 5;
const NARROW = 0.1;
let made = 0;

export class Table {
  #rows = new Map();
  #drawn = "";

  constructor(board) {
    for (const part of ["limit", "guesses", "coverage", "empty"]) this[part] = board.querySelector(`.${part}`);
    this.body = board.querySelector("tbody");
  }

  show(status, now) {
    this.#showCoverage(status);
    setText(this.limit, status.limit);
    setText(this.guesses, status.guesses.told);
    this.empty.hidden = status.nodes.length > 0;
    const seen = new Set();
    const counts = new Map();
    status.nodes.forEach((node, index) => {
      const count = (counts.get(node.name) ?? 0) + 1;
      counts.set(node.name, count);
      const id = `${node.name} ${count}`;
      seen.add(id);
      if (!this.#rows.has(id)) this.#rows.set(id, new Row());
      const row = this.#rows.get(id);
      row.show(node, status, now);
      this.#place(row, index);
    });
    for (const [id, row] of this.#rows) if (!seen.has(id)) row.remove(), this.#rows.delete(id);
  }

  #place({ line, details }, index) {
    const { children } = this.body;
    if (children[2 * index] !== line) this.body.insertBefore(line, children[2 * index] ?? null);
    if (children[2 * index + 1] !== details) line.after(details);
  }

  /** Draws neighbouring layers that the same number of nodes serve as one piece. */
  #showCoverage(status) {
    const told = JSON.stringify([status.served, status.missing]);
    if (told === this.#drawn) return;
    this.#drawn = told;
    const pieces = [];
    status.served.forEach((nodes, layer) => {
      if (pieces.at(-1)?.nodes === nodes) pieces.at(-1).last = layer;
      else pieces.push({ nodes, first: layer, last: layer });
    });
    this.coverage.replaceChildren(...pieces.map((one) => piece(one, status.layers)));
    this.coverage.setAttribute("aria-label", coverageWords(status));
  }

  /** Lets rates fall when no rows come: they are counted over the last seconds. */
  age(now) {
    for (const row of this.#rows.values()) row.age(now);
  }
}

class Row {
  #told = "";
  #facts = "";
  #samples = [];
  #node;

  constructor() {
    this.name = make("button", { type: "button", class: "name", "aria-expanded": "false" });
    this.bar = make("span", { class: "bar" });
    this.fill = make("span", { class: "fill" });
    this.label = make("span", { class: "label" });
    this.bar.append(this.fill, this.label);
    this.state = make("td", { class: "state" });
    this.rate = make("td", { class: "number" });
    this.line = make(
      "tr",
      { class: "node" },
      make("th", { scope: "row" }, this.name),
      make("td", { class: "place" }, make("div", { class: "track" }, this.bar)),
      this.state,
      this.rate,
    );
    this.facts = make("dl");
    this.details = make("tr", { class: "details", id: `details-${++made}`, hidden: true }, make("td", { colSpan: 4 }, this.facts));
    this.name.setAttribute("aria-controls", this.details.id);
    this.line.addEventListener("click", () => this.#toggle());
  }

  show(node, { layers, engine }, now) {
    this.#node = { ...node, engine };
    this.#count(now);
    const told = JSON.stringify(this.#node);
    if (told !== this.#told) {
      this.#told = told;
      this.#draw(this.#node, layers);
    }
  }

  #draw(node, layers) {
    const state = node.state === "ready" && node.sessions ? "busy" : node.state;
    const [first, last] = bounds(node.span);
    this.line.dataset.state = state;
    this.line.dataset.load = Math.min(4, node.sessions);
    this.bar.style.left = `${(100 * first) / layers}%`;
    this.bar.style.width = `${(100 * (last - first + 1)) / layers}%`;
    this.fill.style.width = state === "loading" ? `${100 * node.progress}%` : "100%";
    setText(this.name, node.name);
    setText(this.label, node.span);
    setText(this.state, stateWords(node, state));
    if (!this.details.hidden) this.#tell();
  }

  #count(now) {
    if (this.#samples.at(-1)?.rows > this.#node.rows) this.#samples = []; // the node has left and come again
    this.#samples.push({ at: now, rows: this.#node.rows });
  }

  age(now) {
    this.#showRate(now);
    if (!this.details.hidden) this.#tell();
  }

  #showRate(now) {
    while (this.#samples.length > 1 && this.#samples[1].at <= now - WINDOW_S) this.#samples.shift();
    const gained = this.#samples.at(-1).rows - this.#samples[0].rows;
    setText(this.rate, gained ? figure(gained / Math.max(1, Math.min(WINDOW_S, now - this.#samples[0].at))) : "–");
  }

  #toggle() {
    this.details.hidden = !this.details.hidden;
    this.name.setAttribute("aria-expanded", String(!this.details.hidden));
    if (!this.details.hidden) this.#tell();
  }

  #tell() {
    const told = facts(this.#node);
    if (String(told) === this.#facts) return; // keeps what somebody has selected
    this.#facts = String(told);
    this.facts.replaceChildren(...told.map(([word, text]) => make("div", {}, make("dt", {}, word), make("dd", {}, text))));
  }

  remove() {
    this.line.remove();
    this.details.remove();
  }
}

function stateWords(node, state) {
  if (state === "loading") return `loading ${Math.floor(100 * node.progress)} %`;
  if (state === "busy") return `busy, ${node.sessions} ${node.sessions > 1 ? "streams" : "stream"}`;
  return state;
}

function facts(node) {
  return [
    ...(node.reason ? [["Reason", node.reason]] : []),
    ["Layers", node.span],
    ["Machine", `${node.threads} ${node.threads > 1 ? "threads" : "thread"}, Potluck ${node.software || "unknown"}`],
    ["Engine", [ENGINES[node.engine], node.layout, node.twin && `twin mark ${node.twin.slice(0, 12)}`].filter(Boolean).join(", ")],
    ["Memory offered", `${figure(node.memory / 2 ** 30)} GiB${cards(node)}`],
    ["Speed alone", node.tokens_per_s ? `${figure(node.tokens_per_s)} tokens/s, ${figure(node.prefill_tokens_per_s)} in prompts` : "not measured yet"],
    ["Round trip", `${figure(1000 * node.round_trip_s)} ms`],
    ["Rows computed", figure(node.rows)],
    ["Sessions", `${node.sessions} running, ${node.parked} kept`],
    ["Credits", `${figure(node.credits)} on its account`],
    ["Audits", audits(node)],
    ["Last audit", node.audited_at ? `${ago(Date.now() / 1000 - node.audited_at)} ago` : "none since it joined"],
  ];
}

function cards(node) {
  return node.gpu_memory ? `, and ${figure(node.gpu_memory / 2 ** 30)} GiB of graphics cards` : "";
}

function audits(node) {
  const trust = node.trusted ? "; its owner is trusted" : "";
  return node.audits_passed + node.audits_failed ? `${node.audits_passed} passed, ${node.audits_failed} failed${trust}` : `none yet${trust}`;
}

function ago(seconds) {
  const [unit, length] = UNITS.find(([, length]) => seconds >= length) ?? UNITS.at(-1);
  return `${Math.max(0, Math.floor(seconds / length))} ${unit}`;
}

function bounds(span) {
  const [first, last = first] = span.split("-").map(Number);
  return [first, last];
}

function piece({ nodes, first, last }, layers) {
  const span = first === last ? `${first}` : `${first}-${last}`;
  const words = nodes ? `${span} ×${nodes}` : `${span} missing`;
  const narrow = (last - first + 1) / layers < NARROW;
  const made = make("span", { class: nodes ? "served" : "missing", title: words }, narrow ? "" : words);
  made.style.flexGrow = last - first + 1;
  made.dataset.nodes = Math.min(4, nodes);
  return made;
}

function coverageWords({ layers, covered, missing }) {
  const which = missing.length === 1 && !missing[0].includes("-") ? "layer" : "layers";
  return covered ? `All ${layers} layers are served.` : `No node serves ${which} ${missing.join(", ")} of ${layers}.`;
}
