// Shows the command that adds another computer, to those who may invite.

import { json, key } from "./api.js";
import { copied } from "./clipboard.js";
import { $, setText } from "./dom.js";

const LIFETIME_S = 24 * 3600;

/** A swarm that can be seen without a key is open, or this machine's own. Its nodes need no invite. */
export async function offerJoin() {
  const owner = await allowed("/v1/admin/invites");
  const open = !owner && !key() && (await allowed("/v1/models"));
  $("join").hidden = !owner && !open;
  $("join").onclick = () => show(owner);
}

async function allowed(path) {
  try {
    await json(path);
    return true;
  } catch {
    return false; // the button stays hidden
  }
}

async function show(owner) {
  setText($("command"), "");
  setText($("copied"), "");
  setText($("join-text"), "Run this command on a computer where Potluck is installed:");
  $("join-dialog").showModal();
  try {
    setText($("command"), owner ? await invited() : `potluck join ${location.origin}`);
    const text = "Run this command on a computer where Potluck is installed. The invite is for one computer and valid for a day:";
    if (owner) setText($("join-text"), text);
  } catch (error) {
    setText($("join-text"), error.message);
  }
}

async function invited() {
  const { url, text } = await json("/v1/admin/invites", { body: { uses: 1, lifetime_s: LIFETIME_S } });
  return `potluck join "${url}/#${text}"`;
}

$("copy").addEventListener("click", async () => {
  const done = await copied($("command").textContent);
  if (!done) getSelection().selectAllChildren($("command"));
  setText($("copied"), done ? "Copied." : "Selected. Copy it yourself.");
});
