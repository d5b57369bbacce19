// The chat: streamed answers, and under each of them the nodes that served it.

import { events, request } from "./api.js";
import { begin, conversations, forget, keep, titleOf } from "./conversations.js";
import { $, figure, make, setText } from "./dom.js";
import { markdown } from "./markdown.js";

const KNOBS = ["temperature", "top_p", "max_tokens", "seed"];
const LONG = 128; // tokens; a shorter message is read in no time
const QUIET_MS = 2000;

let current;
let modelName;
let asking = null;
let growing = null; // the message that an answer fills
let heard = 0; // when a part of it last arrived

/** model: a function that returns the model's name. */
export function startChat(model) {
  modelName = model;
  $("fresh").addEventListener("click", () => open(begin()));
  $("stop").addEventListener("click", () => asking?.abort());
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) event.preventDefault(), send();
  });
  $("settings").addEventListener("change", noteSettings);
  open(conversations()[0] ?? begin());
}

/** Says once a second what an answer waits for. missing: layers that no node serves. */
export function ageChat(missing) {
  if (!asking || performance.now() - heard < QUIET_MS) return;
  growing.wait(missing.length ? `No node serves layers ${missing.join(", ")} now. The answer waits for one…` : "Waiting for the nodes…");
}

function open(conversation) {
  asking?.abort();
  current = conversation;
  $("system").value = current.settings.system ?? "";
  for (const knob of KNOBS) $(knob).value = current.settings[knob] ?? "";
  $("messages").replaceChildren(...current.messages.map((message) => bubble(message).element));
  setText($("trouble"), "");
  list();
  $("messages").scrollTop = $("messages").scrollHeight;
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

function noteSettings() {
  const given = KNOBS.filter((knob) => $(knob).value !== "" && $(knob).validity.valid);
  current.settings = { system: $("system").value, ...Object.fromEntries(given.map((knob) => [knob, Number($(knob).value)])) };
  keep();
}

async function send() {
  const prompt = $("prompt").value.trim();
  if (!prompt || asking) return;
  const conversation = current;
  setText($("trouble"), "");
  $("prompt").value = "";
  const question = { role: "user", content: prompt };
  const answer = { role: "assistant", content: "" };
  conversation.messages.push(question);
  const asked = body(conversation);
  conversation.messages.push(answer);
  const shown = bubble(answer);
  $("messages").append(bubble(question).element, shown.element);
  list();
  growing = shown;
  heard = performance.now();
  busy(true);
  try {
    await stream(await asked, answer, shown);
  } catch (error) {
    if (!asking.signal.aborted) setText($("trouble"), error.message);
    if (!answer.content) conversation.messages.splice(-2);
    if (!answer.content && conversation === current) shown.element.previousSibling.remove(), shown.element.remove(), restore(prompt);
  }
  busy(false);
  shown.show();
  keep();
  list();
}

/** Puts a question that got no answer back, so that nobody has to type it again. */
function restore(prompt) {
  if (!$("prompt").value) $("prompt").value = prompt;
}

async function body({ settings: { system, ...knobs }, messages }) {
  const told = messages.map(({ role, content }) => ({ role, content }));
  return {
    model: await modelName(),
    stream: true,
    stream_options: { include_usage: true },
    return_progress: true,
    messages: system ? [{ role: "system", content: system }, ...told] : told,
    ...knobs,
  };
}

async function stream(asked, answer, shown) {
  const began = performance.now();
  let first;
  const reply = await request("/v1/chat/completions", { body: asked, signal: asking.signal });
  try {
    for await (const data of events(reply)) {
      if (data === "[DONE]") break;
      heard = performance.now();
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.prompt_progress) shown.reading(chunk.prompt_progress);
      const text = chunk.choices[0]?.delta.content ?? "";
      if (text) first ??= performance.now();
      answer.content += text;
      if (chunk.usage) answer.served = chunk.usage.nodes ?? [];
      if (chunk.usage) answer.tokens = chunk.usage.completion_tokens;
      if (text) shown.later();
    }
  } finally {
    answer.stopped = asking.signal.aborted;
    if (first) answer.first_s = (first - began) / 1000;
    if (first) answer.stream_s = (performance.now() - first) / 1000;
  }
}

/** Keeps the focus where it is, unless it is on the button that disappears. */
function busy(is) {
  const focused = document.activeElement;
  asking = is ? new AbortController() : null;
  $("send").hidden = is;
  $("stop").hidden = !is;
  $("messages").setAttribute("aria-busy", String(is)); // an answer is read out when it is whole
  if (is && focused === $("send")) $("stop").focus();
  if (!is && focused === $("stop")) $("prompt").focus({ preventScroll: true });
}

/**
 * A message on the page. later: it has grown, and is drawn with the next picture. reading: before its first word.
 * wait: nothing comes, and why.
 */
function bubble(message) {
  const text = make("div", { class: "text" });
  const note = make("p", { class: "note" });
  const read = make("span");
  const bar = make("progress");
  const progress = make("label", { class: "reading", hidden: true }, read, bar);
  const element = make("article", { class: message.role, "aria-label": message.role === "user" ? "You" : "Answer" }, progress, text, note);
  let due = false;
  const show = () => {
    due = false;
    progress.hidden = true;
    const pane = $("messages");
    const below = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 80;
    text.replaceChildren(message.role === "user" ? message.content : markdown(message.content));
    setText(note, noteOf(message));
    if (below) pane.scrollTop = pane.scrollHeight;
  };
  const later = () => {
    if (!due) requestAnimationFrame(show);
    due = true;
  };
  const reading = ({ total, cache, processed }) => {
    progress.hidden = total - cache < LONG;
    setText(note, "");
    setText(read, `Reading: ${figure(processed)} of ${figure(total)} tokens`);
    Object.assign(bar, { max: total, value: processed });
  };
  const wait = (why) => setText(note, why);
  show();
  return { element, show, later, reading, wait };
}

function noteOf({ served, first_s, tokens, stream_s, stopped }) {
  const parts = [];
  if (served?.length) parts.push(`Served by ${served.join(" → ")}`);
  if (first_s !== undefined) parts.push(`first token ${figure(first_s)} s`);
  if (tokens > 1 && stream_s) parts.push(`${figure((tokens - 1) / stream_s)} tokens/s`);
  if (tokens) parts.push(`${tokens} ${tokens > 1 ? "tokens" : "token"}`);
  if (stopped) parts.push("stopped");
  return parts.join(" · ");
}
