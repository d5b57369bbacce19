// Requests to the coordinator, with the API key that this browser keeps.

const KEY = "potluck.key";
const RESUMING_MS = 60_000; // in which an answer that broke off must go on
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2000;
const PASSING = [429, 502, 503, 504]; // a coordinator that cannot go on now, and a proxy before one that is gone

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

/** What broke off for a reason that may pass. */
class Lost extends Error {}

/** Browsers name a lost connection as they like; a request that was ended on purpose stays what it is. */
function lost(error) {
  throw error.name === "AbortError" ? error : new Lost("The coordinator does not answer, or the connection to it was lost.");
}

/** A reply with status 200; throws Refused with the coordinator's own sentence for any other. */
export async function request(path, { body, ...options } = {}) {
  const headers = { ...options.headers, ...(key() ? { Authorization: `Bearer ${key()}` } : {}) };
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
  for await (const { data } of numbered(reply)) yield data;
}

/**
 * The data of each event of an answer. If it breaks off, it goes on after the last event that came, where the coordinator
 * keeps answers: then events have ids. Throws what went wrong otherwise.
 */
export async function* lasting(path, { body, signal }) {
  let last = "";
  let pause = FIRST_PAUSE_MS;
  let until;
  while (true) {
    try {
      const headers = last ? { "Last-Event-ID": last } : {};
      for await (const { id, data } of numbered(await request(path, { body, signal, headers }))) {
        if (last && data.startsWith('{"error":')) throwPassing(JSON.parse(data).error);
        last = id || last;
        pause = FIRST_PAUSE_MS;
        until = undefined;
        yield data;
        if (data === "[DONE]") return;
      }
      if (!last) return;
      throw new Lost("The answer broke off: the coordinator ended it without a reason.");
    } catch (error) {
      until ??= performance.now() + RESUMING_MS;
      const passes = error instanceof Lost || (error instanceof Refused && PASSING.includes(error.status));
      if (!last || !passes || signal.aborted || performance.now() > until) throw error;
    }
    await new Promise((go) => setTimeout(go, pause));
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
}

function throwPassing({ code, message }) {
  if (code === "unavailable") throw new Lost(message);
}

/** The id and the data of each event. */
async function* numbered(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await reader.read().catch(lost);
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const [, id = "", data] = part.match(/^(?:id: ([^\n]*)\n)?data: (.*)$/s) ?? [];
        if (data !== undefined) yield { id, data };
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever ended the request has already cancelled it
  }
}
