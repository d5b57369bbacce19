// Puts the page together: the live status, the two views, and the dialogue for the API key.

import { Refused, events, key, request, setKey } from "./api.js";
import { ageChat, offerModels, startChat } from "./chat.js";
import { $, setText } from "./dom.js";
import { offerJoin } from "./join.js";
import { recallStrip, sampleStrip } from "./strip.js";
import { ageTable, showTable } from "./table.js";

const AGAIN_MS = 2000;
let status = null;
let following = null;

const seconds = () => performance.now() / 1000;

/** Follows the status events, and asks again when they end, for as long as the page is open. */
async function follow() {
  following?.abort();
  const mine = (following = new AbortController());
  while (!mine.signal.aborted) {
    try {
      for await (const data of events(await request("/status/events", { signal: mine.signal }))) take(JSON.parse(data));
    } catch (error) {
      if (mine.signal.aborted) return;
      if (error instanceof Refused && error.status === 401) return askKey(error.message);
      setText($("line"), error instanceof Refused ? error.message : "The coordinator does not answer. The page tries again…");
    }
    await new Promise((done) => setTimeout(done, AGAIN_MS));
  }
}

function take(told) {
  const first = status === null;
  if (told.model !== status?.model) offerModels();
  status = told;
  setText($("line"), "");
  setText($("model"), `${told.model} · ${told.layers} layers · context ${told.context}`);
  showTable(told, seconds());
  if (told.history) recallStrip(told.history, seconds());
  if (first) sampleStrip(told, seconds());
}

setInterval(() => {
  if (status === null) return;
  sampleStrip(status, seconds());
  ageTable(seconds());
  ageChat(status.missing);
}, 1000);

function showView() {
  const view = location.hash === "#chat" ? "chat" : "table";
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.hash === `#${view}`;
    $(link.hash.slice(1)).hidden = !here;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function askKey(why) {
  setText($("line"), why);
  $("secret").value = key();
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

$("key").addEventListener("click", () => askKey(""));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("secret").value.trim());
  $("key-dialog").close();
  start();
});
for (const button of document.querySelectorAll("dialog .close")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
addEventListener("hashchange", showView);

function start() {
  follow();
  offerJoin();
}

showView();
startChat();
start();
