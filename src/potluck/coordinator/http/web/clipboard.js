// Copies text.

import { $, make, setText } from "./dom.js";

/** Whether the text was copied. Pages without TLS have no clipboard of their own, but may copy a selection. */
export async function copied(text) {
  if (navigator.clipboard) {
    return navigator.clipboard.writeText(text).then(() => true, () => false); // the browser may ask, and people refuse
  }
  const focused = document.activeElement;
  const area = make("textarea", { value: text, class: "unseen" });
  (focused.closest("dialog") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused.focus({ preventScroll: true });
  return done;
}

/** Copies text of the chat, and says so. */
export async function copyAndTell(text) {
  setText($("told"), "");
  setText($("told"), (await copied(text)) ? "Copied." : "The browser does not let this page copy. Select the text yourself.");
}
