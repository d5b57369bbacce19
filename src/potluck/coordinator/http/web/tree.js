// A conversation as a tree: an edited question, and an answer made anew, are branches beside the old ones. Pure.

// Messages are kept in the order in which they were written. Each names the place of the one before it, its parent,
// which is always nearer to the front; -1 if it is the first. The tip is the place of the last one that is shown.
export const NONE = -1;

/** Writes a message after this parent and shows it. Returns its place. */
export function add(conversation, message, parent) {
  message.parent = parent;
  return (conversation.tip = conversation.messages.push(message) - 1);
}

/** The places of the messages that lead from the first one to this place. */
export function path({ messages }, place) {
  const places = [];
  for (let at = place; at !== NONE; at = messages[at].parent) places.push(at);
  return places.reverse();
}

/** The places of all versions of the message at this place, the oldest first. */
export function versions({ messages }, place) {
  return [...messages.keys()].filter((at) => messages[at].parent === messages[place].parent);
}

/** The place of the newest message of those that follow from this one. */
export function newest({ messages }, place) {
  const beneath = new Set([place]);
  for (let at = place + 1; at < messages.length; at++) if (beneath.has(messages[at].parent)) beneath.add(at);
  return [...beneath].at(-1);
}
