"""Tells a chat's answer in the events of another API, piece by piece or whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import msgspec

from potluck.coordinator.http.replies import Json, Usage
from potluck.errors import PotluckError


@dataclass(frozen=True)
class Thought:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True)
class Said:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True)
class Called:
    """A piece of the call with this number. identity, name: in its first piece. text: more of its arguments."""

    index: int
    identity: str
    name: str
    text: str


Piece = Thought | Said | Called


def pieces(told: Json) -> Iterator[Piece]:
    """The pieces of a chunk's delta, or of a whole message, in the order in which models write them.

    The rest of the call that is open comes before all that is new. It has no id.
    """
    calls = [_called(place, call) for place, call in enumerate(told.get("tool_calls") or ())]
    rest = [*takewhile(lambda call: not call.identity, calls)]
    yield from rest
    if thought := told.get("reasoning_content"):
        yield Thought(thought)
    if text := told.get("content"):
        yield Said(text)
    yield from calls[len(rest) :]


def _called(place: int, call: Json) -> Called:
    function = call["function"]
    return Called(call.get("index", place), call.get("id", ""), function.get("name", ""), function["arguments"])


def thoughts_in(usage: Json) -> int:
    """The tokens of thoughts that a chat's usage counts."""
    count: int = usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0)
    return count


class Teller(ABC):
    """Tells one answer. usage: counts its tokens while they come.

    A whole answer is told as one chunk, so that its items have the same content as those of a stream. As in a chat's
    message, all of its text comes before its calls, while a stream has an item for each piece of text between calls.
    """

    def __init__(self, usage: Usage) -> None:
        self.usage = usage
        self.finish: str | None = None
        """How the chat's answer ended."""
        self._begun = False
        self._open: tuple[type[Piece], int] | None = None
        """The kind of the item to which pieces are added now, and its number among calls."""

    def chunk(self, chunk: Json) -> bytes:
        """The events for a chunk of the chat's answer."""
        events = [*self._begin()]
        for choice in chunk["choices"]:
            events += self._take(choice["delta"], choice["finish_reason"])
        return b"".join(map(_encoded, events))

    def head(self) -> bytes:
        """The first events, until they have been told."""
        return b"".join(map(_encoded, self._begin()))

    def end(self) -> bytes:
        """The last events."""
        return b"".join(map(_encoded, [*self._close(), *self.ending()]))

    def broken(self, error: PotluckError) -> bytes:
        """The last events of an answer that broke off."""
        return b"".join(map(_encoded, [*self._begin(), *self.failing(error)]))

    def whole(self, completion: Json) -> Json:
        """The whole answer, from the chat's."""
        [choice] = completion["choices"]
        for _ in self._take(choice["message"], choice["finish_reason"]):
            pass  # the items are kept
        for _ in self._close():
            pass
        return self.told()

    def _begin(self) -> Iterator[Json]:
        if not self._begun:
            self._begun = True
            yield from self.beginning()

    def _take(self, told: Json, finish: str | None) -> Iterator[Json]:
        for piece in pieces(told):
            item = (type(piece), piece.index if isinstance(piece, Called) else 0)
            if item != self._open:
                yield from self._close()
                self._open = item
                yield from self.opening(piece)
            if piece.text:
                yield from self.adding(piece)
        self.finish = finish or self.finish

    def _close(self) -> Iterator[Json]:
        if self._open is not None:
            self._open = None
            yield from self.closing()

    @abstractmethod
    def alive(self) -> bytes:
        """What says that the answer is still being made. It is no part of it."""

    @abstractmethod
    def beginning(self) -> Iterator[Json]:
        """The events before the first item."""

    @abstractmethod
    def opening(self, piece: Piece) -> Iterator[Json]:
        """Begin an item with its first piece."""

    @abstractmethod
    def adding(self, piece: Piece) -> Iterator[Json]:
        """Add a piece to the item."""

    @abstractmethod
    def closing(self) -> Iterator[Json]:
        """End the item."""

    @abstractmethod
    def ending(self) -> Iterator[Json]:
        """The events after the last item."""

    @abstractmethod
    def failing(self, error: PotluckError) -> Iterator[Json]:
        """The events with which a stream ends that broke off."""

    @abstractmethod
    def told(self) -> Json:
        """The whole answer."""

    @abstractmethod
    def broken_off(self, error: PotluckError, made: list[Any]) -> Json:
        """The error for an answer that is not streamed and broke off. made: the chat's choices until then."""


def _encoded(event: Json) -> bytes:
    kind: str = event["type"]
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"
