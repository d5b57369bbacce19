// The chat: asks, streams answers into the page, and goes from one branch or conversation to another.

import { lasting } from "./api.js";
import { isEmpty, isJson, take } from "./answer.js";
import { bubble } from "./bubble.js";
import { copyAndTell } from "./clipboard.js";
import { clear, edit, endEdit, restore, startComposer } from "./composer.js";
import { begin, conversations, follow, forget, keep, titleOf } from "./conversations.js";
import { $, make, setText } from "./dom.js";
import { withFiles } from "./files.js";
import { refreshModels, showModel } from "./models.js";
import { startTransfer } from "./transfer.js";
import { add, newest, path, versions } from "./tree.js";

const KNOBS = ["temperature", "top_p", "max_tokens", "seed"];
const QUIET_MS = 2000;

const bubbles = new WeakMap(); // by message

let current;
let asking = null;
let growing = null; // the bubble that an answer fills
let heard = 0; // when a part of it last arrived
let answering; // the model that was asked for it

export function startChat() {
  $("fresh").addEventListener("click", () => open(begin()));
  $("stop").addEventListener("click", () => asking?.abort());
  $("settings").addEventListener("change", noteSettings);
  $("models").addEventListener("change", noteModel);
  $("messages").addEventListener("click", ({ target }) => {
    if (target.matches(".block > button")) copyAndTell(target.nextElementSibling.textContent);
  });
  startComposer((question, edited) => {
    const parent = edited === null ? current.tip : current.messages[edited].parent;
    if (question.content || question.files.length) ask({ question, edited, parent });
  });
  startTransfer(() => current, list);
  for (const event of ["pagehide", "visibilitychange"]) addEventListener(event, () => asking && keep());
  follow(() => (asking || !current.messages.length ? current : null), othersWrote);
  open(conversations()[0] ?? begin());
}

/** Shows the models that may be asked, if the caller may see them. */
export const offerModels = () => refreshModels(current).catch(() => {}); // the line above says what is wrong

/** Says once a second what an answer waits for. statuses: those of all models. */
export function ageChat(statuses) {
  if (!asking || performance.now() - heard < QUIET_MS) return;
  const mine = statuses.length === 1 ? statuses[0] : statuses.find(({ model }) => model === answering);
  const missing = mine?.missing ?? [];
  growing.wait(missing.length ? `No node serves layers ${missing.join(", ")} now. The answer waits for one…` : "Waiting for the nodes…");
}

function open(conversation) {
  asking?.abort();
  endEdit();
  current = conversation;
  $("system").value = current.settings.system ?? "";
  for (const knob of KNOBS) $(knob).value = current.settings[knob] ?? "";
  showModel(current);
  for (const line of ["trouble", "told"]) setText($(line), "");
  draw();
  list();
  $("messages").scrollTop = $("messages").scrollHeight;
}

/** Draws the branch that is shown. What is there already stays untouched, and is not read out again. */
function draw() {
  const pane = $("messages");
  const branch = path(current, current.tip).map(drawn);
  const elements = branch.map(({ element }) => element);
  const differs = elements.findIndex((element, at) => pane.children[at] !== element);
  const same = differs < 0 ? elements.length : differs;
  while (pane.children.length > same) pane.lastChild.remove();
  pane.append(...elements.slice(same));
  return branch;
}

/** The bubble of the message at this place; the same one for as long as it has the same versions beside it. */
function drawn(place) {
  const message = current.messages[place];
  const all = versions(current, place);
  const beside = [all.indexOf(place), all.length];
  const known = bubbles.get(message);
  if (known && String(known.beside) === String(beside)) return known.bubble;
  const does = {
    edit: () => edit(message, place),
    again: () => ask({ parent: message.parent }),
    turn: (to, name) => turn(versions(current, place)[to], name),
  };
  const made = bubble(message, beside, does);
  bubbles.set(message, { bubble: made, beside });
  return made;
}

/** Shows another version of a message, and what followed from it. The focus stays on the button, or beside it. */
function turn(place, name) {
  if (asking) return;
  endEdit();
  const { scrollTop } = $("messages");
  current.tip = newest(current, place);
  const shown = draw()[path(current, place).length - 1].element;
  $("messages").scrollTop = scrollTop;
  (shown.querySelector(`.${name}:enabled`) ?? shown.querySelector(".versions button:enabled")).focus();
  keep();
  list();
}

function list() {
  const items = conversations().map((one) => {
    const button = make("button", { type: "button", class: "quiet", onclick: () => open(one) }, titleOf(one));
    if (one === current) button.setAttribute("aria-current", "true");
    const away = make("button", { type: "button", class: "quiet away", "aria-label": `Delete ${titleOf(one)}` }, "×");
    away.onclick = () => drop(one);
    return make("li", {}, button, away);
  });
  const buttons = () => [...$("conversations").querySelectorAll("button")];
  const focused = buttons().indexOf(document.activeElement);
  $("conversations").replaceChildren(...items);
  if (focused >= 0) (buttons()[focused] ?? $("fresh")).focus();
}

function drop(conversation) {
  forget(conversation);
  if (conversation === current) open(conversations()[0] ?? begin());
  else list();
}

/** Shows what another tab stored, unless this one is in the middle of something. */
function othersWrote() {
  const theirs = conversations().find(({ id }) => id === current.id);
  if (!theirs) return open(conversations()[0] ?? begin());
  if (theirs === current || JSON.stringify(theirs) === JSON.stringify(current)) current = theirs;
  else open(theirs);
  list();
}

function noteSettings() {
  const given = KNOBS.filter((knob) => $(knob).value !== "" && $(knob).validity.valid);
  current.settings = { system: $("system").value, ...Object.fromEntries(given.map((knob) => [knob, Number($(knob).value)])) };
  keep();
}

function noteModel() {
  current.model = $("models").value;
  setText($("gone"), "");
  keep();
}

/**
 * Asks for an answer below the message at `parent`. question: written before it; none to ask the same again. edited: the
 * place of the question's older version, or null.
 */
async function ask({ question, edited = null, parent }) {
  if (asking) return;
  const conversation = current;
  const before = { count: conversation.messages.length, tip: conversation.tip };
  const answer = { role: "assistant", content: "" };
  for (const line of ["trouble", "told"]) setText($(line), "");
  if (question) clear();
  const asked = question ? add(conversation, { role: "user", content: question.content, ...(question.files.length ? { files: question.files } : {}) }, parent) : parent;
  const told = path(conversation, asked).map((place) => conversation.messages[place]);
  add(conversation, answer, asked);
  const mine = (asking = new AbortController());
  heard = performance.now();
  busy(() => (growing = draw().at(-1)).grow());
  $("messages").scrollTop = $("messages").scrollHeight;
  list();
  try {
    await stream(await body(conversation, told, mine.signal), answer, growing, mine.signal);
  } catch (error) {
    if (mine.signal.aborted) answer.stopped = true;
    else answer.error = error.message;
  }
  asking = null;
  const here = conversation === current;
  busy(() => growing.end());
  if (isEmpty(answer) && (answer.error || answer.stopped)) {
    conversation.messages.length = before.count;
    conversation.tip = before.tip;
    if (here) busy(draw);
    if (here && question) restore(question, edited);
  }
  if (here && answer.error) setText($("trouble"), answer.error);
  keep();
  list();
}

/** The request for an answer to these messages. Thoughts are not sent back: models expect only what they said. */
async function body(conversation, told, signal) {
  const { system, ...knobs } = conversation.settings;
  const messages = told.map((message) => ({ role: message.role, content: withFiles(message), ...callsOf(message) }));
  return {
    model: await refreshModels(conversation, signal),
    stream: true,
    stream_options: { include_usage: true },
    return_progress: true,
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    ...knobs,
  };
}

/** The calls that are whole. Of an answer that broke off, the last one may not be, and would be refused every time. */
function callsOf({ calls = [] }) {
  const whole = calls.filter((call) => call.name && isJson(call.arguments || "{}"));
  const told = whole.map(({ id, name, arguments: given }) => ({ id, type: "function", function: { name, arguments: given } }));
  return told.length ? { tool_calls: told } : {};
}

async function stream(asked, answer, shown, signal) {
  const began = performance.now();
  answering = answer.model = asked.model;
  for await (const data of lasting("/v1/chat/completions", { body: asked, signal })) {
    if (data === "[DONE]") break;
    heard = performance.now();
    const event = JSON.parse(data);
    if (event.prompt_progress) shown.reading(event.prompt_progress);
    if (take(answer, event, (heard - began) / 1000)) shown.later();
  }
  if (!answer.finish) throw new Error("The answer broke off: the coordinator ended it without a reason.");
}

/** Draws what an answer's beginning or end changes. Whoever was on a button that disappears is on the next best one. */
function busy(change) {
  const focused = document.activeElement;
  const had = focused !== document.body;
  change();
  const is = asking !== null;
  $("send").hidden = is;
  $("stop").hidden = !is;
  $("messages").setAttribute("aria-busy", String(is)); // an answer is read out when it is whole
  if (had && !focused.checkVisibility()) $(is ? "stop" : "prompt").focus({ preventScroll: true });
}
