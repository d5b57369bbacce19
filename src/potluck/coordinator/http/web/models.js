// The menu of models, which each conversation remembers. It is hidden while there is only one.

import { json } from "./api.js";
import { $, make, setText } from "./dom.js";

let served = [];

/** Asks which models there are, and shows the conversation's. Returns the one that answers now. */
export async function refreshModels(conversation, signal) {
  const told = (await json("/v1/models", { signal })).data.map(({ id }) => id);
  if (told.join("\n") !== served.join("\n")) {
    served = told;
    $("models").replaceChildren(...served.map((id) => make("option", { value: id }, id)));
  }
  return showModel(conversation);
}

/** Shows the model of this conversation, or the first one if its own is not served any more. */
export function showModel({ model }) {
  const answering = served.includes(model) ? model : served[0];
  $("models").value = answering ?? "";
  $("models-label").hidden = served.length < 2;
  setText($("gone"), served.length && model !== undefined && model !== answering ? `${model} is not served now. ${answering} answers.` : "");
  return answering;
}
