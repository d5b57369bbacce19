"""Answers that call tools, read as a client puts them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from potluck.coordinator.text.calls.registry import Offer, dialect_named
from potluck.coordinator.text.calls.stream import CallStream

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS: dict[str, Any] = {"rain": CITY, "sun": {}}

Read = tuple[str, list[tuple[str, str]], bool]
"""The text, the name and the arguments of each call, and whether the calls are whole."""

KOELN = ("rain", '{"city": "Köln"}')
SUN = ("sun", "{}")


def stream_of(tools: dict[str, Any] = TOOLS, *, once: bool = False) -> CallStream:
    return Offer(tools, dialect_named("generic"), once).stream()


def read(pieces: Sequence[str], tools: dict[str, Any] = TOOLS, *, once: bool = False) -> Read:
    stream, calls = stream_of(tools, once=once), list[tuple[str, str]]()
    told = [*(stream.push(piece) for piece in pieces), stream.finish()]
    for piece in (piece for _, pieces in told for piece in pieces):
        if piece.name is not None:
            calls.append((piece.name, ""))
        assert piece.index == len(calls) - 1
        name, arguments = calls[-1]
        calls[-1] = name, arguments + piece.arguments
    return "".join(text for text, _ in told), calls, stream.calls_are_whole


def read_at_every_cut(text: str, tools: dict[str, Any] = TOOLS, *, once: bool = False) -> Read:
    """What an answer says, which does not depend on where it is cut."""
    whole = read([text], tools, once=once)
    assert read(list(text), tools, once=once) == whole
    for cut in range(1, len(text)):
        assert read([text[:cut], text[cut:]], tools, once=once) == whole
    return whole
