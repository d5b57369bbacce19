// The boards: each model's last minutes, its layers and its table of nodes.

import { $, figure, setText } from "./dom.js";
import { Strip } from "./strip.js";
import { Table } from "./table.js";

class Board {
  #status = null;

  constructor() {
    this.element = $("board").content.firstElementChild.cloneNode(true);
    this.strip = new Strip(this.element.querySelector(".strip"));
    this.table = new Table(this.element);
    $("table").append(this.element);
  }

  /** named: whether the board says whose it is, because there are others. */
  show(status, named, now) {
    const fresh = status.model !== this.#status?.model;
    this.#status = status;
    this.#tellName(named);
    const asleep = status.state === "offered" && !status.nodes.length;
    for (const part of this.element.children) part.classList.toggle("asleep", asleep && !part.matches("h2, .about, .offered"));
    this.element.querySelector(".offered").hidden = !asleep;
    this.table.show(status, now);
    if (status.history || fresh) this.strip.recall(status.history ?? [], now);
    if (fresh) this.strip.sample(status, now);
  }

  #tellName(named) {
    const { model } = this.#status;
    for (const [part, text] of [["h2", model], [".about", sizes(this.#status)]]) {
      setText(this.element.querySelector(part), text);
      this.element.querySelector(part).hidden = !named;
    }
    if (named) this.element.setAttribute("aria-label", model);
    else this.element.removeAttribute("aria-label");
  }

  age(now) {
    if (this.#status === null) return;
    this.strip.sample(this.#status, now);
    this.table.age(now);
  }
}

const boards = [new Board()]; // empty until something is told

/** Shows a board for each model. */
export function showBoards(statuses, now) {
  while (boards.length < statuses.length) boards.push(new Board());
  while (boards.length > statuses.length) boards.pop().element.remove();
  statuses.forEach((status, place) => boards[place].show(status, statuses.length > 1, now));
}

/** Names the nodes that wait until somebody asks for a model. */
export function showIdle(nodes) {
  const words = nodes.map(({ name, memory, gpu_memory }) => `${name} (${figure((memory + gpu_memory) / 2 ** 30)} GiB)`);
  $("idle").hidden = !nodes.length;
  setText($("idle"), `Nodes that wait until somebody asks for a model: ${words.join(", ")}.`);
}

/** Draws what changes with time, once a second. */
export function ageBoards(now) {
  for (const board of boards) board.age(now);
}

export const sizes = ({ layers, context }) => `${layers} layers · context ${context}`;
