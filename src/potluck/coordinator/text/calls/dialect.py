"""What a dialect is: how a model reads its template's calls, how they are demanded, and which ids they have."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from potluck.coordinator.text.calls.scan import Scan, Steps
from potluck.coordinator.text.calls.stream import Calls, Schema, Tools

Quote = Callable[[str], str]
"""Writes a mark in a grammar: as its text, or as the control token that it is in a vocabulary."""

SPACES = r" |\n{1,2}[ \t]{0,20}"
"""The spaces that may stand between the parts of a JSON text. Without a limit, a small model would never end."""


class Dialect(ABC):
    """One way in which models write calls. Its own texts, with which `lark` writes a call, are class variables:

    opens, closes: around all calls. before, middle, after: around the name and the arguments of each. joins: between
    calls; None where an answer has one at most. quotes_name: whether the name is a JSON string.
    has_channel: a call stands in a channel of its own, and not in that of the answer.
    controls: those parts of these texts that are control tokens in some vocabularies.
    """

    name: ClassVar[str]
    marks: tuple[str, ...] = ()
    openings: str = ""
    controls: tuple[str, ...] = ()
    opens = closes = before = middle = after = ""
    joins: str | None = None
    quotes_name = True
    has_channel = False

    @classmethod
    @abstractmethod
    def is_of(cls, template: str) -> bool:
        """Whether a chat template writes calls so."""

    @abstractmethod
    def read(self, scan: Scan, calls: Calls) -> Steps[bool]:
        """Read what follows one of the marks, or begins with one of the openings. Returns whether a call began."""

    def identity(self, digits: str) -> str:
        """The id of a new call. digits: 32 hex digits that no other call has."""
        return f"call_{digits}"

    def fitted(self, identity: str) -> str:
        """An id of a replayed call, which may be another server's, as the template wants it."""
        return identity

    def example(self) -> str:
        """A call, for models that are told how to write it."""
        name = json.dumps("NAME") if self.quotes_name else "NAME"
        return f"{self.opens}{self.before}{name}{self.middle}{{…}}{self.after}{self.closes}"

    def lark(self, tools: Tools, quote: Quote, *, several: bool) -> str:
        """One call, or several, of these tools in llguidance's dialect of Lark. Each tool has a schema of its
        arguments. Raises RequestError when these cannot be demanded.
        """
        again = self._text(self.joins, quote) if several and self.joins is not None else None
        rules = [
            f"start: {self._text(self.opens, quote)} calls {self._text(self.closes, quote)}",
            "calls: one" if again is None else f"calls: one ({again} one)*",
            f"one: {' | '.join(f'call{number}' for number in range(len(tools)))}",
        ]
        for number, (name, schema) in enumerate(tools.items()):
            named = json.dumps(name, ensure_ascii=False) if self.quotes_name else name
            before, after = self._text(f"{self.before}{named}{self.middle}", quote), self._text(self.after, quote)
            rules.append(f"call{number}: {before} arguments{number} {after}")
            rules += self.arguments(f"arguments{number}", name, schema)
        return "\n".join(rules) + "\n"

    def arguments(self, rule: str, name: str, schema: Schema) -> list[str]:
        """The rules of the arguments of the tool with this name."""
        return [f"{rule}: {json_rule(schema)}"]

    def _text(self, text: str, quote: Quote) -> str:
        """A text in a grammar, in which control tokens are what the vocabulary has for them."""
        if not text:
            return ""
        if not self.controls:
            return literal(text)
        parts = re.split(f"({'|'.join(map(re.escape, self.controls))})", text)
        return " ".join(quote(part) if part in self.controls else literal(part) for part in parts if part)


def literal(text: str) -> str:
    """A text in a grammar."""
    return json.dumps(text)


def json_rule(schema: Schema) -> str:
    """JSON that matches a schema, in a grammar."""
    return f"%json {json.dumps({**schema, 'x-guidance': {'whitespace_pattern': SPACES}})}"
