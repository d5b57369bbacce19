// An answer: what the events of its stream add to it, and what can be told about it. Pure.

import { figure } from "./dom.js";

const INDEX = Symbol("index"); // tells the calls of a stream apart, and is not stored

/**
 * Adds an event. at_s: seconds since the question was sent. Returns whether the answer grew. Throws what the event says
 * went wrong.
 */
export function take(answer, event, at_s) {
  if (event.error) throw new Error(event.error.message ?? String(event.error));
  const { delta, finish_reason } = event.choices?.[0] ?? {};
  const { content, reasoning_content, reasoning, tool_calls } = delta ?? {};
  const thought = reasoning_content ?? reasoning; // other servers have another name for it
  if (content) answer.content += content;
  if (thought) answer.thinking = (answer.thinking ?? "") + thought;
  for (const piece of tool_calls ?? []) takeCall(answer, piece);
  const grew = Boolean(content || thought || tool_calls?.length);
  if (grew) answer.first_s ??= at_s;
  if (delta && answer.first_s !== undefined) answer.stream_s = at_s - answer.first_s;
  if (finish_reason) answer.finish = finish_reason;
  if (event.model) answer.model = event.model;
  if (event.usage) takeUsage(answer, event.usage);
  return grew;
}

/** The pieces of a call have its index; the first one has its name. */
function takeCall(answer, { index = 0, id, function: called }) {
  answer.calls ??= [];
  let call = answer.calls.find((one) => one[INDEX] === index);
  if (!call) answer.calls.push((call = { [INDEX]: index, id: "", name: "", arguments: "" }));
  call.id ||= id ?? "";
  call.name ||= called?.name ?? "";
  call.arguments += called?.arguments ?? "";
}

function takeUsage(answer, usage) {
  answer.served = usage.nodes ?? [];
  answer.tokens = usage.completion_tokens;
  answer.prompt_tokens = usage.prompt_tokens;
  answer.cached_tokens = usage.prompt_tokens_details?.cached_tokens ?? 0;
  answer.thought_tokens = usage.completion_tokens_details?.reasoning_tokens ?? 0;
  const { right = 0, wrong = 0, void: overtaken = 0 } = usage.guesses ?? {};
  answer.right_guesses = right;
  answer.guesses = right + wrong + overtaken;
}

export const isEmpty = ({ content, thinking, calls }) => !content && !thinking && !calls;

const speed = ({ tokens, stream_s }) => (tokens > 1 && stream_s ? `${figure((tokens - 1) / stream_s)} tokens/s` : undefined);
const share = ({ right_guesses, guesses }) => `${Math.round((100 * right_guesses) / guesses)} %`;
const counted = (tokens) => `${figure(tokens)} ${tokens === 1 ? "token" : "tokens"}`;

/** The line below an answer. */
export function summary(answer) {
  const { served, first_s, tokens, stopped, error } = answer;
  const parts = [];
  if (served?.length) parts.push(`Served by ${served.join(" → ")}`);
  if (first_s !== undefined) parts.push(`first token ${figure(first_s)} s`);
  if (speed(answer)) parts.push(speed(answer));
  if (tokens) parts.push(counted(tokens));
  if (answer.guesses) parts.push(`${share(answer)} of ${figure(answer.guesses)} ${answer.guesses === 1 ? "guess was" : "guesses were"} right`);
  if (stopped) parts.push("stopped");
  if (error || !(stopped || tokens || answer.finish)) parts.push("broke off");
  return parts.join(" · ");
}

const ENDS = {
  stop: "The model ended the answer.",
  length: "The answer was as long as it may be.",
  tool_calls: "The model calls a tool.",
  content_filter: "A filter ended the answer.",
};

/** All that is known of an answer, as words and values. */
export function details(answer) {
  const { model, tokens, thought_tokens, prompt_tokens, cached_tokens, first_s, served, finish, stopped, error } = answer;
  const told = [];
  if (model) told.push(["Model", model]);
  if (tokens !== undefined) told.push(["Answer", counted(tokens) + (thought_tokens ? `, ${figure(thought_tokens)} of them thinking` : "")]);
  if (prompt_tokens) told.push(["Prompt", counted(prompt_tokens) + (cached_tokens ? `, ${figure(cached_tokens)} of them read before` : "")]);
  if (first_s !== undefined) told.push(["First token", `after ${figure(first_s)} s`]);
  if (speed(answer)) told.push(["Speed", speed(answer)]);
  if (answer.guesses) told.push(["Guesses", `${figure(answer.guesses)}, ${share(answer)} of them right`]);
  if (served?.length) told.push(["Nodes", served.join(" → ")]);
  if (error) told.push(["End", `It broke off: ${error}`]);
  else if (stopped) told.push(["End", "You stopped it."]);
  else if (finish) told.push(["End", ENDS[finish] ?? finish]);
  return told;
}

export function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** The arguments of a call, with a line for each field once they are whole. */
export const formatted = (text) => (isJson(text) ? JSON.stringify(JSON.parse(text), null, 2) : text);
