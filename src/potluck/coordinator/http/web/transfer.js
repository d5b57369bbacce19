// The buttons that export conversations and import them.

import { exported, imported, unknown } from "./archive.js";
import { addAll, conversations, identity } from "./conversations.js";
import { $, make, setText } from "./dom.js";

const MOST_BYTES = 64 << 20; // browsers keep far less than this

/** current: returns the conversation that is open. changed: called when others have come. */
export function startTransfer(current, changed) {
  $("export-one").addEventListener("click", () => save([current()]));
  $("export-all").addEventListener("click", () => save(conversations()));
  $("import").addEventListener("click", () => $("import-file").click());
  $("import-file").addEventListener("change", async () => {
    const [file] = $("import-file").files;
    for (const line of ["trouble", "told"]) setText($(line), "");
    try {
      if (file) setText($("told"), take(await textOf(file)));
    } catch (error) {
      setText($("trouble"), error.message);
    }
    $("import-file").value = ""; // so that the same file can be chosen again
    changed();
  });
}

async function textOf(file) {
  if (file.size > MOST_BYTES) throw new Error("This file is larger than all that a browser could keep.");
  return file.text().catch(() => {
    throw new Error("This file cannot be read.");
  });
}

/** Takes over the conversations in this text. Returns what to say about it. */
function take(text) {
  const found = imported(text);
  const fresh = unknown(found, conversations(), identity);
  addAll(fresh);
  const known = found.length - fresh.length;
  return `Imported: ${counted(fresh.length)}.${known ? ` Already here: ${counted(known)}.` : ""}`;
}

const counted = (number) => `${number} ${number === 1 ? "conversation" : "conversations"}`;

function save(chosen) {
  const some = chosen.filter(({ messages }) => messages.length);
  if (!some.length) return setText($("told"), "There is nothing to export yet.");
  const href = URL.createObjectURL(new Blob([exported(some)], { type: "application/json" }));
  const day = new Date().toISOString().slice(0, 10);
  make("a", { href, download: `potluck-conversations-${day}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000); // by then the browser has begun to save it
  setText($("told"), `Exported: ${counted(some.length)}.`);
}
