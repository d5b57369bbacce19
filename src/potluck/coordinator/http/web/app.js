// Puts the page together: the live status, the two views, and the dialogue for the API key.

import { Refused, events, key, request, setKey } from "./api.js";
import { ageBoards, showBoards, showIdle, sizes } from "./boards.js";
import { ageChat, offerModels, startChat } from "./chat.js";
import { $, setText } from "./dom.js";
import { offerJoin } from "./join.js";

const AGAIN_MS = 2000;
let statuses = [];
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
  const before = names();
  statuses = told.models ?? [told]; // a list where there are several models
  if (names() !== before) offerModels();
  setText($("line"), "");
  const [one, another] = statuses;
  setText($("model"), another ? `${statuses.length} models` : `${one.model} · ${sizes(one)}`);
  showBoards(statuses, seconds());
  showIdle(told.idle ?? []);
}

const names = () => statuses.map(({ model }) => model).join("\n");

setInterval(() => {
  if (!statuses.length) return;
  ageBoards(seconds());
  ageChat(statuses);
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
