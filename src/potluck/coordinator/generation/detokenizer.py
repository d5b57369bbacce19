"""The detokenizer: turns tokens into text as they come, and gives only text that no later token can change."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence

from potluck.coordinator.text.tokenizer import Tokenizer
from potluck.errors import RequestError


class Detokenizer:
    """Turns the tokens of one answer into text, up to the first stop string.

    A character that is split over tokens comes out whole, and text that may be the beginning of a stop string waits
    until it is known not to be one. The whole output depends only on the bytes of the tokens, not on how they are cut.
    stops: raises RequestError when one of them is empty. shown: control tokens that count as text.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), shown: Collection[int] = frozenset()) -> None:
        if "" in stops:
            raise RequestError("A stop string cannot be empty.", param="stop")
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stops)
        self._shown = shown
        self._beginnings = {stop[:length] for stop in stops for length in range(1, len(stop))}
        self._longest = max(map(len, self._beginnings), default=0)
        self._held = ""
        self.stopped: str | None = None
        """The stop string that was found. Neither it nor what follows is emitted."""

    def push(self, token: int) -> str:
        """The text that is certain now and was not before."""
        return self._advance(self._decoder.decode(self._tokenizer.piece(token, special=token in self._shown)))

    def finish(self) -> str:
        """The rest, when no more tokens come. Bytes that are not a whole character become U+FFFD."""
        text = self._advance(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _advance(self, text: str) -> str:
        if self.stopped is not None:
            return ""
        text = self._held + text
        found = self._first_stop(text)
        if found is not None:
            start, self.stopped = found
            self._held = ""
            return text[:start]
        certain = len(text) - self._doubtful(text)
        self._held = text[certain:]
        return text[:certain]

    def _first_stop(self, text: str) -> tuple[int, str] | None:
        """The start of the stop string that is complete first, and the string; the longest if several end together."""
        found = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        return min(found)[1:] if found else None

    def _doubtful(self, text: str) -> int:
        """The length of the longest end of the text with which a stop string begins."""
        lengths = range(min(len(text), self._longest), 0, -1)
        return next((length for length in lengths if text[-length:] in self._beginnings), 0)
