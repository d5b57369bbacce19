"""Fields that clients of other servers send, and that would change an answer in ways that Potluck cannot.

They are refused by name unless they have a value with which they change nothing. Other unknown fields are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from potluck.errors import RequestError

Neutral = tuple[object, ...]

NOTHING: Neutral = (None, False, "", [], {})
"""The values with which a field of any name changes nothing."""
_LONGEST_NEUTRAL = 64

REFUSED: Mapping[str, Neutral] = {
    # OpenAI
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": (),
    "modalities": (["text"],),
    "moderation": (),
    "suffix": (),
    "web_search_options": (),
    # vLLM
    "allowed_token_ids": (),
    "bad_words": (),
    "chat_template": (),
    "documents": (),
    "include_stop_str_in_output": (),
    "length_penalty": (1, 0),
    "logits_processors": (),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "skip_special_tokens": (True,),
    "thinking_token_budget": (-1,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (),
    # llama.cpp's server, Ollama, SGLang and others
    "ebnf": (),
    "extra_body": (),
    "format": (),
    "images": (),
    "instructions": (),
    "no_repeat_ngram_size": (0,),
    "options": (),
    "regex": (),
    "system": (),
    "tfs_z": (1, 0),
    "top_a": (0,),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "lora": (),
    "mirostat": (0,),
    "n_probs": (0,),
    "reasoning_budget": (-1,),
    "reasoning_format": ("auto", "deepseek", "parsed"),
    "top_n_sigma": (0, -1),
    "typical_p": (0, 1),
    "xtc_probability": (0,),
}
"""The refused fields, each with the values besides `NOTHING` that change nothing."""

REFUSED_FOR_COMPLETIONS: Mapping[str, Neutral] = {
    **REFUSED,
    "add_special_tokens": (True,),
    "continue_final_message": (),
    "messages": (),
    "tools": (),
    "top_logprobs": (0,),
}

REFUSED_AT_DOORS: Mapping[str, Neutral] = {**REFUSED, "logprobs": (), "n": (1,), "top_logprobs": (0,)}
"""The same for the APIs whose answers have one choice without log-probabilities."""

_INSTEAD = {
    "logprobs": "Use /v1/chat/completions",
    "n": "Use /v1/chat/completions",
    "continue_final_message": "A completion always continues its prompt: leave it out",
    "ebnf": "Use guided_grammar",
    "extra_body": "Its fields belong beside the others",
    "format": "Use response_format",
    "instructions": "Use a message with the role system",
    "messages": "Use /v1/chat/completions",
    "options": "Its fields belong beside the others",
    "regex": "Use guided_regex",
    "system": "Use a message with the role system",
    "tools": "Use /v1/chat/completions",
    "top_logprobs": "Use logprobs of /v1/chat/completions or of /v1/completions",
    "functions": "This is OpenAI's older form: use tools",
    "function_call": "This is OpenAI's older form: use tools and tool_choice",
    "suffix": "Potluck does not fill in the middle of a text: leave it out",
    "chat_template": "The model's own template is used: leave it out, or use /v1/completions",
    "allowed_token_ids": "Use logit_bias",
    "bad_words": "Use logit_bias",
}


def refuse_unsupported(fields: Mapping[str, msgspec.Raw], refused: Mapping[str, Neutral] = REFUSED) -> None:
    """Raises RequestError, naming the field, when one of them would have to change the answer and cannot."""
    for name in refused.keys() & fields.keys():
        neutral = refused[name]
        true_by_default = any(one is True for one in neutral)
        if not is_neutral(fields[name], (None, *neutral) if true_by_default else (*NOTHING, *neutral)):
            advice = _INSTEAD.get(name, "Leave it out")
            raise RequestError(f"{name} is not supported. {advice}.", param=name)


def is_neutral(given: msgspec.Raw, neutral: Neutral) -> bool:
    """Whether a field has one of these values. A long one has not, and is not made into objects."""
    if len(bytes(given)) > _LONGEST_NEUTRAL:
        return False
    value = msgspec.json.decode(given)
    return any(isinstance(value, bool) is isinstance(one, bool) and value == one for one in neutral)
