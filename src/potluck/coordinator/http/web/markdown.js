// Turns Markdown into DOM nodes. A model's text is hostile: it becomes text nodes, and only links to the web are links.

import { make } from "./dom.js";

// Every part is bounded, so that no text keeps the browser busy for long.
const INLINE = new RegExp(
  [
    "(`{1,3})(.{1,2000}?)\\1",
    "\\*\\*(.{1,2000}?)\\*\\*",
    "(?<!\\w)\\*(?!\\s)([^*]{1,2000}?)\\*",
    "(?<!\\w)_(?!\\s)([^_]{1,2000}?)_(?!\\w)",
    "!?\\[([^\\]]{0,500})\\]\\(([^()\\s]{1,2000})\\)",
  ].join("|"),
  "s",
);

const DEEPEST = 8;

/** The whole text as a fragment. depth: that of the quotes and lists around it. */
export function markdown(text, depth = 0) {
  const fragment = document.createDocumentFragment();
  if (depth > DEEPEST) fragment.append(text);
  const lines = depth > DEEPEST ? [] : text.replaceAll("\r", "").split("\n");
  while (lines.length) fragment.append(...block(lines, depth));
  return fragment;
}

/** Takes the lines of one block from the front. */
function block(lines, depth) {
  const line = lines[0];
  const fence = /^\s*(```+|~~~+)\s*([\w+-]*)/.exec(line);
  if (fence) return [code(lines, fence[1])];
  if (!line.trim()) return lines.shift(), [];
  const heading = /^(#{1,6})\s+(.*)$/s.exec(line);
  if (heading) return lines.shift(), [make(`h${Math.min(6, heading[1].length + 2)}`, {}, inline(heading[2].replace(/(^|\s)#+\s*$/, "")))];
  if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) return lines.shift(), [make("hr")];
  if (/^\s*>/.test(line)) return [make("blockquote", {}, markdown(quoted(lines), depth + 1))];
  if (item(line)) return [list(lines, depth)];
  if (tabular(lines)) return [table(lines)];
  return [paragraph(lines)];
}

function code(lines, fence) {
  lines.shift();
  const end = lines.findIndex((line) => line.trim().startsWith(fence));
  const body = lines.splice(0, end < 0 ? lines.length : end);
  lines.shift();
  const copy = make("button", { type: "button", class: "quiet", "aria-label": "Copy the code" }, "Copy");
  return make("div", { class: "block" }, copy, make("pre", { tabIndex: 0 }, make("code", {}, body.join("\n"))));
}

function quoted(lines) {
  const end = lines.findIndex((line) => !/^\s*>/.test(line));
  return lines.splice(0, end < 0 ? lines.length : end).map((line) => line.replace(/^\s*> ?/, "")).join("\n");
}

const item = (line) => /^(\s*)([-*+]|(\d{1,9})[.)])\s+(.*)$/s.exec(line);

/** Lines that are indented further are blocks of the item above them. */
function list(lines, depth) {
  const [, indent, , start] = item(lines[0]);
  const made = start === undefined ? make("ul") : make("ol", { start: Number(start) });
  for (let found; lines.length && (found = item(lines[0])) && found[1].length <= indent.length; ) {
    lines.shift();
    const own = [found[4]];
    while (lines.length && /^\s{2,}\S/.test(lines[0]) && lines[0].search(/\S/) > indent.length) own.push(lines.shift());
    const margin = own.slice(1).reduce((least, line) => Math.min(least, line.search(/\S/)), 4);
    const rest = own.slice(1).map((line) => line.slice(margin)).join("\n");
    made.append(make("li", {}, inline(own[0]), ...(rest ? [markdown(rest, depth + 1)] : [])));
  }
  return made;
}

/** Whether a table begins here: a line of names above one of dashes. */
const tabular = ([names, rule = ""]) => names.includes("|") && /^\|?(\s*:?-+:?\s*\|)+(\s*:?-+:?)?$/.test(rule.trim());

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));

/** The table. Short rows are not filled up, because then a little text could make very many cells. */
function table(lines) {
  const [names] = lines.splice(0, 2).map(cells);
  const end = lines.findIndex((line) => !line.includes("|"));
  const rows = lines.splice(0, end < 0 ? lines.length : end).map(cells);
  const head = make("tr", {}, together(names.map((name) => make("th", { scope: "col" }, inline(name)))));
  const body = rows.map((row) => make("tr", {}, together(row.slice(0, names.length).map((text) => make("td", {}, inline(text))))));
  return make("div", { class: "wide", tabIndex: 0 }, make("table", {}, make("thead", {}, head), make("tbody", {}, together(body))));
}

const begins = (lines) => /^\s*(```|~~~|#{1,6}\s|>)/.test(lines[0]) || item(lines[0]) || tabular(lines);

function paragraph(lines) {
  const own = [lines.shift()];
  while (lines.length && lines[0].trim() && !begins(lines)) own.push(lines.shift());
  return make("p", {}, inline(own.join("\n")));
}

function inline(text) {
  const parts = [];
  for (let found; (found = INLINE.exec(text)); text = text.slice(found.index + found[0].length)) {
    parts.push(text.slice(0, found.index), piece(found));
  }
  return together([...parts, text]);
}

/** All parts in one fragment. They are not spread, because a text can have more parts than a call may have arguments. */
function together(parts) {
  const fragment = document.createDocumentFragment();
  for (const part of parts) fragment.append(part);
  return fragment;
}

function piece([whole, , literal, strong, star, underscore, label, target]) {
  if (literal !== undefined) return make("code", {}, literal.trim() || literal);
  if (strong !== undefined) return make("strong", {}, inline(strong));
  if (target !== undefined) return link(label || target, target) ?? whole;
  return make("em", {}, inline(star ?? underscore));
}

/** A link. Pictures become links, too, because nothing is fetched from elsewhere. */
function link(label, target) {
  if (!/^https?:\/\//i.test(target) || !URL.canParse(target)) return undefined;
  return make("a", { href: target, target: "_blank", rel: "noopener noreferrer" }, label);
}
