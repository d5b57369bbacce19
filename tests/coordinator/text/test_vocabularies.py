"""Whether a small model's tokens are those of a large one."""

from __future__ import annotations

from typing import Any, cast

import pytest

from potluck.coordinator.text.tokenizer import Tokenizer
from potluck.coordinator.text.vocabularies import first_difference


class Pieces:
    """A tokenizer with these tokens, of which those in angle brackets are control tokens."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = tokens
        self.vocabulary = len(tokens)

    def piece(self, token: int, *, special: bool = False) -> bytes:
        text = self._tokens[token]
        return b"" if text.startswith("<") and not special else text.encode()


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        (["a", "b", "<s>"], ["a", "b", "<s>"], None),
        (["a", "b", "<s>", "c"], ["a", "b", "<s>"], None),
        (["a", "b"], ["a", "b", "[PAD2]", "[PAD3]"], None),
        (["a", "", "c"], ["a", "<unused1>", "c"], None),
        (["a", "b", "c"], ["a", "c", "b"], 1),
        (["a", "b", "<s>"], ["a", "b", "<t>"], 2),
        (["a", "b", "<s>", "c"], ["<s>", "a", "b", "c"], 0),
        (["a", " b"], ["a", "b"], 1),
    ],
)
def test_every_id_that_both_have_stands_for_the_same(one: list[str], other: list[str], place: int | None) -> None:
    some, others = cast(Any, Pieces(*one)), cast(Any, Pieces(*other))
    assert first_difference(cast(Tokenizer, some), others) == place
    assert first_difference(cast(Tokenizer, others), some) == place
