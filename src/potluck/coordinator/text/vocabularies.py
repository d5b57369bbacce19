"""The texts of all tokens of a tokenizer."""

from __future__ import annotations

from potluck.coordinator.text.tokenizer import Tokenizer


def pieces(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes for which each id stands, control tokens included; empty for ids without a text."""
    return [tokenizer.piece(token, special=True) for token in range(tokenizer.vocabulary)]
