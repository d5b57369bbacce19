"""The protocol of tokenizers: they turn text into token ids, and a token id into exact bytes."""

from __future__ import annotations

from typing import Protocol

from potluck.errors import RequestError


class Tokenizer(Protocol):
    """A tokenizer. Every member is read-only, and calls from several threads are safe."""

    @property
    def vocabulary(self) -> int:
        """The number of ids, 0 … vocabulary-1. A model's logits may be padded beyond it."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """All tokens that end a generation."""

    @property
    def bos(self) -> str:
        """The text of the token that begins a sequence, for chat templates; empty when the model has none."""

    @property
    def eos(self) -> str:
        """The text of the token that ends a sequence, for chat templates; empty when the model has none."""

    @property
    def chat_template(self) -> str | None:
        """The Jinja source that comes with the model."""

    @property
    def tool_template(self) -> str | None:
        """The one for chats in which tools are offered, if the model has one of its own for them."""

    def encode(self, text: str, *, special: bool, bos: bool) -> list[int]:
        """The tokens of a text. Raises RequestError when it contains half a surrogate pair.

        special: read `<|im_start|>` and the like as the control tokens that they name, not as plain text.
        bos: begin with the beginning-of-sequence token if the model was trained with it. A text that already begins so
        keeps one.
        """

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that a token stands for, perhaps a part of a character. Control tokens give none unless `special`.

        An id outside the vocabulary, which is a row of padding in the model's head, gives none.
        """

    def name(self, token: int) -> str:
        """A token as text to show (U+FFFD for parts of characters), including control tokens."""


def prefixed(tokens: list[int], prefix: list[int]) -> list[int]:
    """The tokens, beginning with the prefix exactly once."""
    return tokens if tokens[: len(prefix)] == prefix else prefix + tokens


def utf8(text: str) -> bytes:
    """The text's bytes. Raises RequestError for half a surrogate pair, which JSON can carry but UTF-8 cannot."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"The text is not Unicode: half a character at position {error.start}.") from error
