"""The end of a turn, which the model was taught: what a chat template writes after the words of the assistant."""

from __future__ import annotations

import re

from potluck.coordinator.text.template import ChatTemplate
from potluck.coordinator.text.tokenizer import Tokenizer
from potluck.errors import RequestError

_THOUGHT, _SAID = "\ue0c8\ue0c9", "\ue0ca\ue0cb"
"""Stand for what an assistant thinks and says. These characters have no meaning in Unicode."""

_TURNS = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": _SAID, "reasoning_content": _THOUGHT},
)

_LIKE_A_TOKEN = re.compile(r"<[^<>\s]{1,60}>")
"""Such as `<|im_end|>`, which tunes of models write whose vocabulary does not have it."""


def end_of_turn(template: ChatTemplate, tokenizer: Tokenizer) -> str | None:
    """The control token after the assistant's words, or a text that looks like one; None where there is neither.

    A token that also stands between thinking and words would end the answer before it begins, and does not count.
    """
    try:
        text = template.render(_TURNS, add_generation_prompt=False)
    except RequestError:
        return None  # some templates refuse a chat that ends so, and then nothing is known
    before, found, after = text.rpartition(_SAID)
    end = _first_token(after.lstrip(), tokenizer) if found else None
    between = before.rpartition(_THOUGHT)[2] if _THOUGHT in before else ""
    return None if end is None or end in between or end in template.marks.all else end


def _first_token(text: str, tokenizer: Tokenizer) -> str | None:
    first = next(iter(tokenizer.encode(text, special=True, bos=False)), None)
    if first is not None and not tokenizer.piece(first) and text.startswith(name := tokenizer.name(first)):
        return name or None
    found = _LIKE_A_TOKEN.match(text)
    return found and found[0]
