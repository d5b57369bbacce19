// Where messages are written: new ones, and those that are edited, with their files.

import { $, make, setText } from "./dom.js";
import { read, roomBeside } from "./files.js";

let files = [];
let edited = null; // the place of the message that is edited
let draft = null; // what was being written before it

/** send: called with what was written, and the place of the message that it is another version of, or null. */
export function startComposer(send) {
  const submit = () => send({ content: $("prompt").value.trim(), files }, edited);
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) event.preventDefault(), submit();
    if (event.key === "Escape" && edited !== null) endEdit();
  });
  $("end-edit").addEventListener("click", () => endEdit());
  $("attach").addEventListener("click", () => $("choose").click());
  $("choose").addEventListener("change", async () => {
    const chosen = [...$("choose").files];
    $("choose").value = ""; // so that the same file can be chosen again
    await attach(chosen);
  });
  takeDrops();
}

/** A file that is dropped anywhere on the page is for the message, and never opened in place of the page. */
function takeDrops() {
  const isOver = (is) => $("ask").classList.toggle("over", is);
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    isOver(!$("chat").hidden);
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && isOver(false));
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    isOver(false);
    if (!$("chat").hidden) attach([...event.dataTransfer.files]);
  });
}

/** Reads the files one after the other. Those that cannot go with the message are named. */
async function attach(chosen) {
  const troubles = [];
  for (const file of chosen) {
    try {
      const made = await read(file, roomBeside(files));
      showFiles([...files, made]);
    } catch (error) {
      troubles.push(error.message);
    }
  }
  setText($("trouble"), troubles.join(" "));
  $("prompt").focus({ preventScroll: true });
}

function showFiles(now) {
  files = now;
  const chips = files.map((file) => {
    const away = make("button", { type: "button", class: "quiet away", "aria-label": `Remove ${file.name}` }, "×");
    away.onclick = () => {
      showFiles(files.filter((one) => one !== file));
      $("prompt").focus({ preventScroll: true });
    };
    return make("li", {}, make("span", {}, file.name), away);
  });
  $("files").replaceChildren(...chips);
}

function write({ content, files = [] }, place) {
  edited = place;
  $("prompt").value = content;
  showFiles(files);
  $("editing").hidden = place === null;
}

/** Empties the composer when its message is on its way, or gives back what was there before it was edited. */
export function clear() {
  write(draft ?? { content: "" }, null);
  draft = null;
}

/** Lets the message at this place be written anew. What was being written comes back afterwards. */
export function edit(message, place) {
  draft ??= { content: $("prompt").value, files };
  write(message, place);
  $("prompt").focus();
}

export function endEdit() {
  if (edited === null) return;
  clear();
  $("prompt").focus({ preventScroll: true });
}

/** Puts a question that got no answer back, so that nobody has to write it again. */
export function restore(message, place) {
  if (place !== null) return edit(message, place);
  if (!$("prompt").value && !files.length) write(message, null);
}
