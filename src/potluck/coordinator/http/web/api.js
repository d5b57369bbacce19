// Requests to the coordinator, with the API key that this browser keeps.

const KEY = "potluck.key";

export const key = () => localStorage.getItem(KEY) ?? "";

export function setKey(secret) {
  if (secret) localStorage.setItem(KEY, secret);
  else localStorage.removeItem(KEY);
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Browsers name a lost connection as they like; a request that was ended on purpose stays what it is. */
function lost(error) {
  throw error.name === "AbortError" ? error : new Error("The coordinator does not answer, or the connection to it was lost.");
}

/** A reply with status 200; throws Refused with the coordinator's own sentence for any other. */
export async function request(path, { body, ...options } = {}) {
  const headers = key() ? { Authorization: `Bearer ${key()}` } : {};
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    options = { ...options, method: "POST", body: JSON.stringify(body) };
  }
  const reply = await fetch(path, { ...options, headers }).catch(lost);
  if (reply.ok) return reply;
  const told = await reply.json().catch(() => ({}));
  throw new Refused(reply.status, told.error?.message ?? `The coordinator answered with status ${reply.status}.`);
}

export const json = async (path, options) => (await request(path, options)).json();

/** The data of each server-sent event. EventSource would do the same, but it cannot send a key. */
export async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await reader.read().catch(lost);
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever ended the request has already cancelled it
  }
}
