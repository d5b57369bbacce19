"""The encoder: what makes prompts of chats and texts, and the JSON of tokens that people ask to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple, Protocol

import msgspec

from potluck.coordinator.text.calls.dialect import Dialect
from potluck.coordinator.text.ending import end_of_turn
from potluck.coordinator.text.template import ChatTemplate
from potluck.coordinator.text.thinking import Place, Thinking
from potluck.coordinator.text.tokenizer import Tokenizer
from potluck.errors import RequestError

MOST_SHOWN = 4 << 20
"""The most bytes of an answer that shows tokens or their text, because it is held until its client has read it."""


class TooManyTokens(Exception):
    """A prompt has more tokens than were asked for: `count` of them."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


Messages = Sequence[Mapping[str, Any]]
Options = Mapping[str, Any]


class Prompt(NamedTuple):
    """The prompt of a chat. place: where in the answer it ends. end: the text that ends the answer's turn."""

    tokens: list[int]
    place: Place = Place.BEFORE
    end: str | None = None


class Encoder(Protocol):
    """Turns what clients send into tokens. It blocks, for seconds at the worst, and may be called on several threads.

    Every method raises RequestError when its text cannot be encoded, or when that takes too much time or memory.
    """

    @property
    def calls(self) -> Dialect:
        """The dialect in which the model calls tools, as its chat template tells."""

    @property
    def thinking(self) -> Thinking | None:
        """The marks of thinking that the model's chat template mentions."""

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer to a chat besides the model's own stop tokens."""

    def of_text(self, text: str, *, most: int) -> list[int]:
        """The prompt that is this text, in which `<|im_start|>` and the like are control tokens.

        Raises TooManyTokens for more than `most`.
        """

    def of_chat(self, messages: Messages, options: Options, *, most: int) -> Prompt:
        """The prompt of a chat. options: those of `ChatTemplate.prompt`, and further variables such as `tools`.

        Raises TooManyTokens for more than `most`.
        """

    def of_prediction(self, text: str, *, most: int) -> list[int]:
        """The first `most` tokens of a text that an answer may have, in which nothing is a control token."""

    def shown(self, text: str, *, bos: bool, pieces: bool) -> bytes:
        """The tokens of a text as a JSON list of their ids, or of objects that have their pieces as well."""

    def text_of(self, tokens: list[int]) -> str:
        """The text that tokens of the vocabulary stand for, including control tokens."""

    def close(self) -> None:
        """End it: what is under way ends with an error."""


class PlainEncoder:
    """An encoder without limits of time and memory, for models that are trusted."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self.calls = template.calls
        self.stops = template.stops
        self.thinking = template.thinking
        self.prompt = template.prompt
        self._template = template
        self._tokenizer = tokenizer
        self._piece = cache(self._piece_json)

    def of_text(self, text: str, *, most: int) -> list[int]:
        tokens = self._tokenizer.encode(text, special=True, bos=True)
        if len(tokens) > most:
            raise TooManyTokens(len(tokens))
        return tokens

    def of_chat(self, messages: Messages, options: Options, *, most: int) -> Prompt:
        text, place = self.prompt(messages, **options)
        return Prompt(self.of_text(text, most=most), place, self.end)

    def of_prediction(self, text: str, *, most: int) -> list[int]:
        return self._tokenizer.encode(text, special=False, bos=False)[:most]

    @cached_property
    def end(self) -> str | None:
        """The text that ends a turn of the assistant."""
        return end_of_turn(self._template, self._tokenizer)

    def shown(self, text: str, *, bos: bool, pieces: bool) -> bytes:
        tokens = self._tokenizer.encode(text, special=True, bos=bos)
        body = b"[" + b",".join(map(self._piece, tokens)) + b"]" if pieces else msgspec.json.encode(tokens)
        return _bounded(body)

    def text_of(self, tokens: list[int]) -> str:
        pieces = cache(lambda token: self._tokenizer.piece(token, special=True))
        return _bounded(b"".join(map(pieces, tokens))).decode("utf-8", "replace")

    def close(self) -> None:
        pass

    def _piece_json(self, token: int) -> bytes:
        piece = self._tokenizer.piece(token, special=True)
        try:
            return msgspec.json.encode({"id": token, "piece": piece.decode()})
        except UnicodeDecodeError:
            return msgspec.json.encode({"id": token, "piece": list(piece)})


def _bounded(shown: bytes) -> bytes:
    if len(shown) > MOST_SHOWN:
        raise RequestError(f"The answer would be longer than {MOST_SHOWN} bytes: ask for less at once.", status=413)
    return shown
