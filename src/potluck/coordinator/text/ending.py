"""The end of a turn, which the model was taught: what a chat template writes after the words of the assistant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from potluck.coordinator.text.template import ChatTemplate
from potluck.coordinator.text.tokenizer import Tokenizer
from potluck.errors import RequestError

_THOUGHT, _SAID, _CALLED = "\ue0c8\ue0c9", "\ue0ca\ue0cb", "\ue0cc\ue0cd"
"""Stand for what an assistant thinks and says, and for a tool. These characters have no meaning in Unicode."""

_ANSWER = {"role": "assistant", "content": _SAID, "reasoning_content": _THOUGHT}
_CALL = {
    "role": "assistant",
    "content": _SAID,
    "tool_calls": [{"id": "123456789", "type": "function", "function": {"name": _CALLED, "arguments": {}}}],
}

_LIKE_A_TOKEN = re.compile(r"<[^<>\s]{1,60}>")
"""Such as `<|im_end|>`, which tunes of models write whose vocabulary does not have it."""


def end_of_turn(template: ChatTemplate, tokenizer: Tokenizer) -> str | None:
    """The control token after the assistant's words, or a text that looks like one; None where there is neither.

    A token that also stands within an answer, between thinking and words or between words and a call, does not count.
    """
    answer = _rendered(template, _ANSWER)
    end = _first_token(answer.rpartition(_SAID)[2].lstrip(), tokenizer) if _SAID in answer else None
    inside = _between(answer, _THOUGHT, _SAID) + _between(_rendered(template, _CALL), _SAID, _CALLED)
    return None if end is None or end in inside or end in template.marks.all else end


def _rendered(template: ChatTemplate, message: Mapping[str, Any]) -> str:
    """A chat that ends with this message; empty where the template refuses it, so that nothing is known."""
    try:
        return template.render([{"role": "user", "content": "Hi"}, message], add_generation_prompt=False)
    except RequestError:
        return ""


def _between(text: str, start: str, end: str) -> str:
    """What stands between these two in the text; empty unless both are there."""
    before = text.rpartition(end)[0]
    return before.rpartition(start)[2] if start in before else ""


def _first_token(text: str, tokenizer: Tokenizer) -> str | None:
    first = next(iter(tokenizer.encode(text, special=True, bos=False)), None)
    if first is not None and not tokenizer.piece(first) and text.startswith(name := tokenizer.name(first)):
        return name or None
    found = _LIKE_A_TOKEN.match(text)
    return found and found[0]
