// One message of a chat: its text, and what can be done with it and told about it.

import { details, formatted, summary } from "./answer.js";
import { copyAndTell } from "./clipboard.js";
import { figure, make, setText } from "./dom.js";
import { markdown } from "./markdown.js";

const LONG = 128; // tokens; a shorter message is read in no time

/**
 * A message on the page. versions: the number of this one, counted from 0, and how many there are. does: what `edit`,
 * `again` and `turn` to another version do.
 */
export function bubble(message, versions, does) {
  return message.role === "user" ? question(message, versions, does) : answer(message, versions, does);
}

function question(message, versions, does) {
  const text = make("div", { class: "text" }, message.content);
  const files = (message.files ?? []).map(shownFile);
  const edit = make("button", { type: "button", class: "quiet edit", onclick: does.edit }, "Edit");
  const element = make("article", { class: "user", "aria-label": "You" }, ...files, text, actions(message, versions, does, edit));
  return { element };
}

const shownFile = ({ name, text }) =>
  make("details", { class: "file" }, make("summary", {}, name), make("pre", { tabIndex: 0 }, make("code", {}, text)));

/** What can be done with a message. Branches rest while an answer grows. */
function actions(message, [number, count], does, more) {
  const copy = make("button", { type: "button", class: "quiet", onclick: () => copyAndTell(message.content) }, "Copy");
  const branching = make("span", { class: "branching" }, more);
  if (count > 1) branching.append(turns(number, count, does.turn));
  return make("div", { class: "actions" }, copy, branching);
}

function turns(number, count, turn) {
  const side = (name, sign, to) =>
    make("button", { type: "button", class: `quiet ${name}`, "aria-label": `Version ${to + 1} of ${count}`, disabled: to < 0 || to >= count, onclick: () => turn(to, name) }, sign);
  const here = make("span", { class: "turn" }, make("span", { class: "unseen" }, "Version "), `${number + 1}/${count}`);
  return make("span", { class: "versions", role: "group", "aria-label": "Versions" }, side("earlier", "‹", number - 1), here, side("later", "›", number + 1));
}

/**
 * later: the answer has grown, and is drawn with the next picture. reading: before its first word. wait: nothing comes,
 * and why. end: no more comes.
 */
function answer(message, versions, does) {
  const thoughts = folded("thoughts", "Thinking");
  const text = make("div", { class: "text" });
  const calls = make("div", { class: "calls" });
  const note = make("p", { class: "note" });
  const facts = folded("facts", "Details");
  const progress = readingBar();
  const again = make("button", { type: "button", class: "quiet again", onclick: does.again }, "Regenerate");
  const done = actions(message, versions, does, again);
  done.append(facts.element);
  const element = make("article", { class: "assistant", "aria-label": "Answer" }, progress.element, thoughts.element, text, calls, note, done);
  let due = false;
  const show = () => {
    due = false;
    progress.element.hidden = true;
    showThoughts(thoughts, message);
    text.replaceChildren(markdown(message.content));
    showCalls(calls, message.calls ?? []);
    setText(note, "");
  };
  const later = () => {
    if (!due) requestAnimationFrame(() => due && keepBelow(element.parentElement, show)); // unless it ended meanwhile
    due = true;
  };
  const close = () => {
    element.classList.remove("growing");
    show();
    setText(note, summary(message));
    const told = details(message).map(([word, value]) => make("div", {}, make("dt", {}, word), make("dd", {}, value)));
    facts.inner.replaceChildren(make("dl", {}, ...told));
    facts.element.hidden = !told.length;
    done.hidden = false;
  };
  const end = () => keepBelow(element.parentElement, close);
  const grow = () => {
    element.classList.add("growing");
    thoughts.element.open = true;
    setText(note, "");
    done.hidden = true;
  };
  const reading = (told) => {
    setText(note, "");
    progress.show(told);
  };
  end();
  return { element, grow, later, reading, wait: (why) => setText(note, why), end };
}

function folded(name, title) {
  const inner = make("div", { class: "inner" });
  return { element: make("details", { class: name, hidden: true }, make("summary", {}, title), inner), inner };
}

/** Thoughts are open while nothing else is there, and folded once, when the answer begins. */
function showThoughts({ element, inner }, { thinking, content, calls }) {
  element.hidden = !thinking;
  setText(inner, thinking ?? "");
  const begun = Boolean(content || calls);
  if (begun && element.dataset.begun === undefined) element.open = false;
  if (begun) element.dataset.begun = "";
}

function showCalls(pane, calls) {
  calls.forEach((call, place) => {
    const shown = pane.children[place] ?? pane.appendChild(make("section", { class: "call" }, make("p"), make("pre", { tabIndex: 0 }, make("code"))));
    setText(shown.querySelector("p"), `Calls the tool ${call.name}`);
    setText(shown.querySelector("code"), formatted(call.arguments));
  });
}

function readingBar() {
  const read = make("span");
  const bar = make("progress");
  const element = make("label", { class: "reading", hidden: true }, read, bar);
  const show = ({ total, cache, processed }) => {
    element.hidden = total - cache < LONG;
    setText(read, `Reading: ${figure(processed)} of ${figure(total)} tokens`);
    Object.assign(bar, { max: total, value: processed });
  };
  return { element, show };
}

/** Draws, and stays at the end of the pane if it was there. */
function keepBelow(pane, draw) {
  const below = pane && pane.scrollHeight - pane.scrollTop - pane.clientHeight < 80;
  draw();
  if (below) pane.scrollTop = pane.scrollHeight;
}
