"""The text of an answer while it arrives, for parsers that are generators: they yield where they need more of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Generator
from typing import Any, TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
"""The steps of a parser, which returns a T. It yields whenever the text that is there does not decide what follows."""

_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")


class Scan:
    """Text that arrives in pieces. at: where the parser is in it. has_ended: no more text comes.

    What a parser finds, and where it gives up, depends only on the text, not on how that was cut.
    """

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.has_ended = False

    def take(self, length: int) -> str:
        """Take this much from the beginning. The parser is then where the rest begins."""
        taken, self.text, self.at = self.text[:length], self.text[length:], 0
        return taken

    def peek(self) -> Steps[str]:
        """The next character; empty at the end."""
        while self.at >= len(self.text) and not self.has_ended:
            yield
        return self.text[self.at : self.at + 1]

    def spaces(self, besides: str = "") -> Steps[None]:
        """Pass white space, and these characters."""
        while (character := (yield from self.peek())) and (character.isspace() or character in besides):
            self.at += 1

    def one_of(self, texts: Collection[str]) -> Steps[str | None]:
        """Pass the longest of these texts that stands here; None if none does."""
        longest = max(map(len, texts), default=0)
        while True:
            here = self.text[self.at : self.at + longest]
            if self.has_ended or not any(len(text) > len(here) and text.startswith(here) for text in texts):
                break
            yield
        found = max((text for text in texts if self.text.startswith(text, self.at)), key=len, default=None)
        self.at += len(found or "")
        return found

    def literal(self, text: str) -> Steps[bool]:
        """Pass this text if it stands here."""
        return (yield from self.one_of((text,))) is not None

    def find(self, text: str) -> Steps[int | None]:
        """The place where this text stands next. None if it does not come; the parser is then at the end."""
        start = self.at
        while (found := self.text.find(text, start)) < 0:
            start = max(start, len(self.text) - len(text) + 1)
            if self.has_ended:
                self.at = len(self.text)
                return None
            yield
        return found

    def nested(self, tell: Callable[[str], None], quotes: str = '"', depth: int = 0) -> Steps[None]:
        """Tell the text, as it comes, up to the end of the bracket or string that opens here.

        quotes: the characters that begin a string. depth: how many brackets are open before.
        """
        bracket = _Bracket(quotes, depth)
        while True:
            length, told = bracket.read(self.text[self.at :])
            self.at += length
            if told:
                tell(told)
            if bracket.is_closed or self.has_ended:
                return
            yield

    def json_text(self) -> Steps[str]:
        """Pass a JSON object, list or string; returns its source."""
        parts: list[str] = []
        yield from self.nested(parts.append)
        return "".join(parts)

    def json_name(self, known: Collection[str]) -> Steps[str | None]:
        """Pass a JSON string that is one of these; None as soon as it cannot be."""
        if (yield from self.peek()) != '"':
            return None
        sources, start, bracket = [_json_string(name) for name in known], self.at, _Bracket()
        while not bracket.is_closed:
            character = yield from self.peek()
            source = self.text[start : self.at] + character
            if not character or not ("\\" in source or any(one.startswith(source) for one in sources)):
                return None
            bracket.read(character)
            self.at += 1
        name = decoded(self.text[start : self.at])
        return name if isinstance(name, str) and name in known else None


class _Bracket:
    """Finds the end of a bracket or string that arrives in pieces."""

    def __init__(self, quotes: str = '"', depth: int = 0) -> None:
        self.is_closed = False
        self._quotes = quotes
        self._depth = depth
        self._quote = ""
        self._is_escaped = False

    def read(self, text: str) -> tuple[int, str]:
        """The number of the next characters that belong to it, and what they say.

        Models write line breaks into strings, where JSON wants them escaped, as is done here.
        """
        told: list[str] = []
        for character in text:
            if self.is_closed:
                break
            is_bare = self._quote and not self._is_escaped and character < " "
            told.append(json.dumps(character)[1:-1] if is_bare else character)
            self._take(character)
        return len(told), "".join(told)

    def _take(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif self._quote:
            self._is_escaped = character == "\\"
            if character == self._quote:
                self._quote = ""
                self.is_closed = self._depth == 0
        elif character in self._quotes:
            self._quote = character
        else:
            self._depth += (character in _OPENING) - (character in _CLOSING)
            self.is_closed = self._depth <= 0


def decoded(text: str) -> Any:
    """The decoded JSON; None for text that is not JSON."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def encoded(value: Any) -> str | None:
    """The value as JSON; None if it has none."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:  # half a character, which JSON can only escape
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return text


def _json_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # Python knows NaN and Infinity, and JSON does not
