// Text files that go with a message. They are read in the browser.

import { figure } from "./dom.js";

export const MOST_BYTES = 1 << 20; // of all files of a message; few contexts hold a quarter of it
const UTF16 = { "255,254": "utf-16le", "254,255": "utf-16be" }; // by the marks with which such texts begin

/** The file as a name and a text. room: the bytes that it may have. Throws an error whose message is for people. */
export async function read(file, room = MOST_BYTES) {
  if (file.size > room) {
    throw new Error(`${quoted(file.name)} is too large: the files of a message may have ${figure(MOST_BYTES / 1024)} KiB together.`);
  }
  const bytes = await file.arrayBuffer().catch(() => {
    throw new Error(`${quoted(file.name)} cannot be read. If it is a folder, choose the files in it.`);
  });
  return { name: file.name, text: decoded(new Uint8Array(bytes), file.name) };
}

function decoded(bytes, name) {
  const encoding = UTF16[bytes.subarray(0, 2).join()] ?? "utf-8";
  try {
    const text = new TextDecoder(encoding, { fatal: true }).decode(bytes);
    if (!text.includes("\0")) return text;
  } catch {
    // said below
  }
  throw new Error(`${quoted(name)} is not a text in UTF-8 or UTF-16, so the model cannot read it.`);
}

const quoted = (name) => `“${name}”`;
const bytesOf = (text) => new TextEncoder().encode(text).length;

export const roomBeside = (files) => MOST_BYTES - files.reduce((sum, { text }) => sum + bytesOf(text), 0);

/** The text of a message for the model: each file in a fence that nothing in it can close, and then what was typed. */
export function withFiles({ content, files = [] }) {
  return [...files.map(fenced), content].filter(Boolean).join("\n\n");
}

function fenced({ name, text }) {
  const longest = (text.match(/`+/g) ?? []).reduce((most, run) => Math.max(most, run.length), 2);
  const fence = "`".repeat(longest + 1);
  const line = name.replace(/[\s\p{Cc}`]+/gu, " ");
  return `${line}:\n${fence}\n${text}${text.endsWith("\n") ? "" : "\n"}${fence}`;
}
