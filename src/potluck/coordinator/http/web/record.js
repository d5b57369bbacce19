// What a conversation may consist of. What was stored, or comes from a file, is checked and copied field by field. Pure.

import { NONE } from "./tree.js";

const isText = (value) => typeof value === "string";
const isFlag = (value) => typeof value === "boolean";
const isAmount = (value) => Number.isFinite(value) && value >= 0;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isRecord = (...fields) => (value) => isObject(value) && fields.every((field) => isText(value[field]));
const isListOf = (isOne) => (value) => Array.isArray(value) && value.every(isOne);

const CALL = ["id", "name", "arguments"];
const FILE = ["name", "text"];
const OPTIONAL = {
  thinking: isText,
  calls: isListOf(isRecord(...CALL)),
  files: isListOf(isRecord(...FILE)),
  model: isText,
  served: isListOf(isText),
  tokens: isAmount,
  thought_tokens: isAmount,
  prompt_tokens: isAmount,
  cached_tokens: isAmount,
  guesses: isAmount,
  right_guesses: isAmount,
  first_s: isAmount,
  stream_s: isAmount,
  finish: isText,
  stopped: isFlag,
  error: isText,
};
const SETTINGS = { system: isText, temperature: Number.isFinite, top_p: Number.isFinite, max_tokens: Number.isFinite, seed: Number.isFinite };

const only = (fields) => (value) => Object.fromEntries(fields.map((field) => [field, value[field]]));

/** The fields that are there. Throws a sentence's end when one of them cannot be what it says. */
function checked(value, fields) {
  const there = Object.keys(fields).filter((name) => value[name] !== undefined && value[name] !== null);
  const wrong = there.find((name) => !fields[name](value[name]));
  if (wrong) throw new Error(`has a wrong ${wrong}`);
  return Object.fromEntries(there.map((name) => [name, value[name]]));
}

/** place: that of the message. Before there were branches, each message followed the one before it. */
function message(value, place) {
  if (!isObject(value)) throw new Error("is none");
  const { role, content, parent = place - 1 } = value;
  if (role !== "user" && role !== "assistant") throw new Error("is neither a question nor an answer");
  if (!isText(content)) throw new Error("has no text");
  if (!Number.isInteger(parent) || parent < NONE || parent >= place) throw new Error("follows one that is not before it");
  const made = { role, content, parent, ...checked(value, OPTIONAL) };
  if (made.calls) made.calls = made.calls.map(only(CALL));
  if (made.files) made.files = made.files.map(only(FILE));
  return made;
}

/** A copy of the conversation. Throws an error that says in a part of a sentence what is wrong with it. */
export function conversationOf(value) {
  if (!isObject(value) || !isText(value.id) || !Array.isArray(value.messages)) throw new Error("it has no messages");
  const messages = value.messages.map((one, place) => {
    try {
      return message(one, place);
    } catch (error) {
      throw new Error(`its message ${place + 1} ${error.message}`);
    }
  });
  const { tip = messages.length - 1, settings = {}, model } = value;
  if (!Number.isInteger(tip) || tip < NONE || tip >= messages.length) throw new Error("it shows a message that it does not have");
  if (!isObject(settings) || (model !== undefined && !isText(model))) throw new Error("its settings are wrong");
  try {
    return { id: value.id, settings: checked(settings, SETTINGS), ...(model === undefined ? {} : { model }), messages, tip };
  } catch {
    throw new Error("its settings are wrong");
  }
}
