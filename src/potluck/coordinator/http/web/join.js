// The one command that brings this computer to the table, for those who may invite.

import { json, key } from "./api.js";
import { $, setText } from "./dom.js";

const LIFETIME_S = 24 * 3600;

/** Whoever has no key and sees the swarm needs no invite: it is open, or this machine's own. */
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
    return false; // the button stays away
  }
}

async function show(owner) {
  setText($("command"), "");
  setText($("copied"), "");
  setText($("join-text"), "Run this where Potluck is installed:");
  $("join-dialog").showModal();
  try {
    setText($("command"), owner ? await invited() : `potluck join ${location.origin}`);
    if (owner) setText($("join-text"), "Run this where Potluck is installed. The invite is for one computer, and good for a day:");
  } catch (error) {
    setText($("join-text"), error.message);
  }
}

async function invited() {
  const { url, text } = await json("/v1/admin/invites", { body: { uses: 1, lifetime_s: LIFETIME_S } });
  return `potluck join "${url}/#${text}"`;
}

$("copy").addEventListener("click", async () => {
  getSelection().selectAllChildren($("command")); // where the clipboard is closed, the text is marked at least
  await navigator.clipboard?.writeText($("command").textContent);
  setText($("copied"), navigator.clipboard ? "Copied." : "Marked: copy it yourself.");
});
