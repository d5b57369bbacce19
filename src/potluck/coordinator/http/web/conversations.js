// Conversations, which are kept only in this browser.

import { $, setText } from "./dom.js";
import { conversationOf } from "./record.js";
import { NONE, path } from "./tree.js";

const PLACE = "potluck.conversations";
const FULL = "This browser has no room for more: what is new is kept only until this page is closed. Export conversations, and delete some.";

let unreadable = []; // another version's, perhaps: kept as they are
let all = read();

function read() {
  const found = stored();
  const good = [];
  unreadable = [];
  for (const one of found) {
    try {
      good.push(conversationOf(one));
    } catch {
      unreadable.push(one);
    }
  }
  return good;
}

function stored() {
  try {
    const found = JSON.parse(localStorage.getItem(PLACE));
    return Array.isArray(found) ? found : [];
  } catch {
    return []; // not ours
  }
}

export const conversations = () => all;

export function titleOf({ messages, tip }) {
  const first = messages[path({ messages }, tip)[0]];
  return first?.content.trim().slice(0, 60) || first?.files?.[0]?.name || "New conversation";
}

export const identity = () => crypto.getRandomValues(new Uint32Array(2)).join("-");

/** Begins a conversation, which comes first in the list, with the settings and the model of the one before. */
export function begin() {
  const { settings = {}, model } = all[0] ?? {};
  const fresh = { id: identity(), settings, ...(model === undefined ? {} : { model }), messages: [], tip: NONE };
  all = [fresh, ...all.filter((one) => one.messages.length)];
  return fresh;
}

export function forget(conversation) {
  all = all.filter((one) => one !== conversation);
  keep();
}

export function addAll(conversations) {
  all = [...conversations, ...all];
  keep();
}

/** Takes the place of the conversation with its identity. */
function hold(conversation) {
  const at = all.findIndex(({ id }) => id === conversation.id);
  all = at < 0 ? [conversation, ...all] : all.with(at, conversation);
}

/** Stores all conversations. If there is no room, the browser still has what was stored before. */
export function keep() {
  try {
    localStorage.setItem(PLACE, JSON.stringify([...all, ...unreadable]));
    setText($("full"), "");
  } catch (error) {
    if (error.name !== "QuotaExceededError") throw error;
    setText($("full"), FULL);
  }
}

/** Calls back when another tab has stored conversations. held: returns the one that this tab is changing, if any. */
export function follow(held, changed) {
  addEventListener("storage", ({ key }) => {
    if (key !== PLACE) return;
    const unsaved = $("full").textContent ? all : [];
    const known = new Set(unsaved.map(({ id }) => id));
    all = [...unsaved, ...read().filter(({ id }) => !known.has(id))];
    if (held()) hold(held());
    changed();
  });
}
