"""Compares the vocabularies of two models: whether a small one can guess the tokens of a large one."""

from __future__ import annotations

from potluck.coordinator.text.tokenizer import Tokenizer


def first_difference(one: Tokenizer, other: Tokenizer) -> int | None:
    """The first id that stands for other bytes in the one than in the other, control tokens included; None if there is
    none.

    Ids that only one of them has do not count, and neither do those for which one has no text: vocabularies are padded
    with such.
    """
    shared = range(min(one.vocabulary, other.vocabulary))
    return next((token for token in shared if _differ(_bytes(one, token), _bytes(other, token))), None)


def _bytes(tokenizer: Tokenizer, token: int) -> bytes:
    return tokenizer.piece(token, special=True)


def _differ(one: bytes, other: bytes) -> bool:
    return bool(one) and bool(other) and one != other
