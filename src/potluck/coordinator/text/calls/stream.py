"""Separates the tool calls from the text of an answer, piece by piece, in whichever dialect they are written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from potluck.coordinator.text.calls.scan import Scan, Steps, decoded

Schema = dict[str, Any]
Tools = Mapping[str, Schema]
"""The schema of its parameters for each tool, by the tool's name."""

_AT_ONCE = 4096
"""The most characters that are looked at together. What is held is copied often, and most of it is soon decided."""

_SEPARATORS = ";,"
"""What models write between calls, and some after the last one."""

_AFTER_CALL = re.compile(rf"\A[\s{_SEPARATORS}]+")


@dataclass(frozen=True)
class CallPiece:
    """A piece of the call with this number, counted from 0. name: in its first piece. arguments: more of their JSON."""

    index: int
    name: str | None
    arguments: str


class Enough(Exception):
    """The one call that the answer may contain is complete."""


class Calls:
    """The calls of an answer, as its readers find them. once: there is to be one at most."""

    def __init__(self, tools: Tools, *, once: bool = False) -> None:
        self.tools = tools
        self.pieces: list[CallPiece] = []
        """The pieces that were not taken yet."""
        self._once = once
        self._arguments: list[list[str]] = []

    @property
    def found(self) -> int:
        """The number of calls that have begun."""
        return len(self._arguments)

    @property
    def are_whole(self) -> bool:
        """Whether there are calls, and the arguments of each are a JSON object."""
        arguments = ("".join(parts) for parts in self._arguments)
        return self.found > 0 and all(isinstance(decoded(text), dict) for text in arguments)

    def begin(self, name: str) -> None:
        self._arguments.append([])
        self.pieces.append(CallPiece(self.found - 1, name, ""))

    def add(self, arguments: str) -> None:
        """Add to the arguments of the call that began last."""
        self._arguments[-1].append(arguments)
        self.pieces.append(CallPiece(self.found - 1, None, arguments))

    def end(self) -> None:
        """Note that the call is complete. Raises Enough if it is the only one that may come."""
        if self._once:
            raise Enough

    def whole(self, name: str, arguments: str) -> None:
        """Add a call that is known as a whole. Raises Enough as `end` does."""
        self.begin(name)
        self.add(arguments)
        self.end()

    def adopt(self, draft: Calls) -> None:
        """Add the calls of a draft, which was made to see whether all of it is what it seems to be."""
        names = [piece.name for piece in draft.pieces if piece.name is not None]
        for name, parts in zip(names, draft._arguments, strict=True):
            self.whole(name, "".join(parts))


class Reader(Protocol):
    """Reads calls that are written in one way. marks: the texts with which they begin, anywhere in an answer.

    openings: the characters with which they may begin where an answer does, or after another call.
    """

    marks: tuple[str, ...]
    openings: str

    def read(self, scan: Scan, calls: Calls) -> Steps[bool]:
        """Read what follows a mark, or what begins with an opening. Returns whether a call began."""


class CallStream:
    """Separates the calls from the text of one answer. Text that calls none of the tools stays text, and flows as soon
    as it cannot be a call.

    White space and separators after calls are dropped. once: what follows the first call is dropped too.
    """

    def __init__(self, tools: Tools, readers: Sequence[Reader], *, once: bool = False) -> None:
        self.is_over = False
        """Whether nothing that comes now is part of the answer."""
        self._readers = readers
        self._calls = Calls(tools, once=once)
        self._marks = sorted({mark for reader in readers for mark in reader.marks}, key=len, reverse=True)
        self._any_mark = re.compile("|".join(map(re.escape, self._marks)))
        self._beginnings = {mark[:length] for mark in self._marks for length in range(1, len(mark))}
        self._scan = Scan()
        self._shown: list[str] = []
        self._is_after_call = False
        self._steps = self._run()

    @property
    def calls_are_whole(self) -> bool:
        """Whether the answer calls tools, always with arguments that are JSON."""
        return self._calls.are_whole

    def push(self, text: str) -> tuple[str, list[CallPiece]]:
        """The text that is certain not to be part of a call, and the new pieces of calls."""
        for start in range(0, len(text), _AT_ONCE):
            self._scan.text += text[start : start + _AT_ONCE]
            self._advance()
        return self._told()

    def finish(self) -> tuple[str, list[CallPiece]]:
        """The rest of the answer. A call that lacks only what closes it counts."""
        self._scan.has_ended = True
        self._advance()
        return self._told()

    def _advance(self) -> None:
        if not self.is_over:
            try:
                next(self._steps)
            except (StopIteration, Enough):
                self.is_over = True
        if self.is_over:
            self._scan.text = ""

    def _told(self) -> tuple[str, list[CallPiece]]:
        told = "".join(self._shown), self._calls.pieces
        self._shown, self._calls.pieces = [], []
        return told

    def _run(self) -> Steps[None]:
        may_open = True
        while (mark := (yield from self._mark(may_open))) is not None:
            may_open = yield from self._call(mark)

    def _mark(self, may_open: bool) -> Steps[str | None]:
        """Show text up to the next mark, which the scan has then passed; None if no more comes."""
        if may_open:
            yield from self._scan.spaces(besides=_SEPARATORS if self._calls.found else "")
            if (mark := (yield from self._scan.one_of(self._marks))) is not None:
                return mark
            character = yield from self._scan.peek()
            if character and any(character in reader.openings for reader in self._readers):
                return character
        while (found := self._any_mark.search(self._scan.text)) is None:
            self._show(len(self._scan.text) - self._doubtful())
            if self._scan.has_ended:
                return None
            yield
        self._show(found.start())
        self._scan.at = len(found[0])
        return found[0]

    def _call(self, mark: str) -> Steps[bool]:
        """Read a call after this mark, or show what cannot be one. Returns whether there was one."""
        start = furthest = self._scan.at
        for reader in self._readers:
            if mark in reader.marks or mark in reader.openings:
                self._scan.at = start
                if (yield from reader.read(self._scan, self._calls)):
                    self._scan.take(self._scan.at)
                    self._is_after_call = True
                    return True
                furthest = max(furthest, self._scan.at)
        self._show(furthest)
        return False

    def _doubtful(self) -> int:
        """The length of the longest end of the text with which a mark may begin."""
        if self._scan.has_ended:
            return 0
        text = self._scan.text[-len(self._marks[0]) :]
        return next((length for length in range(len(text), 0, -1) if text[-length:] in self._beginnings), 0)

    def _show(self, length: int) -> None:
        """Show this much of the text."""
        taken = self._scan.take(length)
        if self._is_after_call:
            taken = _AFTER_CALL.sub("", taken)
            self._is_after_call = not taken
        self._shown.append(taken)
