// Conversations, which are kept only in this browser.

const PLACE = "potluck.conversations";
const MOST = 50;

let all = read();

function read() {
  try {
    return JSON.parse(localStorage.getItem(PLACE)) ?? [];
  } catch {
    return []; // not ours
  }
}

export const conversations = () => all;

export const titleOf = (conversation) => conversation.messages[0]?.content.trim().slice(0, 60) || "New conversation";

/** Begins a conversation, which comes first in the list. settings: those of the one before. */
export function begin() {
  const fresh = { id: crypto.getRandomValues(new Uint32Array(2)).join("-"), settings: all[0]?.settings ?? {}, messages: [] };
  all = [fresh, ...all.filter((one) => one.messages.length)].slice(0, MOST);
  return fresh;
}

export function forget(conversation) {
  all = all.filter((one) => one !== conversation);
  keep();
}

/** Stores all conversations. If the browser has no room left, the oldest ones are dropped. */
export function keep() {
  for (let count = all.length; count >= 0; count--) {
    try {
      return localStorage.setItem(PLACE, JSON.stringify(all.slice(0, count)));
    } catch (error) {
      if (error.name !== "QuotaExceededError") throw error;
    }
  }
}
