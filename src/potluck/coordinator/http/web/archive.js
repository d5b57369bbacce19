// Conversations as a file, and back. Pure.

import { conversationOf } from "./record.js";

const FORMAT = "potluck-conversations";
const VERSION = 1;
const FOREIGN = "This file is not an export of Potluck's conversations.";

export const exported = (conversations) => JSON.stringify({ format: FORMAT, version: VERSION, conversations }, null, 1);

/** The conversations in the text of a file. Throws an error whose message is for people. */
export function imported(text) {
  const { version, conversations } = envelope(text);
  if (version !== VERSION) throw new Error("Another version of Potluck made this file, which this one cannot read.");
  return conversations.map((one, place) => {
    try {
      return conversationOf(one);
    } catch (error) {
      throw new Error(`Nothing was imported: conversation ${place + 1} of this file is broken, because ${error.message}.`);
    }
  });
}

function envelope(text) {
  let told;
  try {
    told = JSON.parse(text);
  } catch {
    throw new Error(FOREIGN);
  }
  if (told?.format !== FORMAT || !Array.isArray(told.conversations)) throw new Error(FOREIGN);
  return told;
}

/**
 * Those of the conversations that are not yet known. One whose identity is taken by another gets a new one, so that
 * neither replaces the other.
 */
export function unknown(conversations, known, identity) {
  const contents = new Set(known.map((one) => JSON.stringify(conversationOf(one))));
  const taken = new Set(known.map(({ id }) => id));
  const fresh = [];
  for (const one of conversations) {
    const content = JSON.stringify(one);
    if (contents.has(content)) continue;
    contents.add(content);
    fresh.push(taken.has(one.id) ? { ...one, id: identity() } : one);
    taken.add(fresh.at(-1).id);
  }
  return fresh;
}
