"""Tool calls in a model's own words: found in its text piece by piece, or demanded by a grammar. Without I/O.

There are two ways of writing them: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, anywhere and several times
(Hermes, Qwen), and an answer that begins with `{"name": …, "parameters": {…}}` (Llama 3).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

Schema = dict[str, Any]

_OPEN = "<tool_call>"
CALL_END = "</tool_call>"

_STRING = r'"(?:[^"\\]|\\.)*"'
_HEAD = re.compile(rf'\s*\{{\s*"name"\s*:\s*({_STRING})\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)', re.DOTALL)
"""The head of a call as models are taught to write it: up to the object of its arguments."""

SPACES = r" |\n{1,2}[ \t]{0,20}"
"""The spaces that may stand between the parts of a JSON text. Without a limit, a small model would never end."""


class CallForm(Enum):
    """The text before the name, between the name and the arguments, and after a call."""

    HERMES = ('<tool_call>\n{"name": ', ', "arguments": ', "}\n</tool_call>")
    LLAMA = ('{"name": ', ', "parameters": ', "}")

    @classmethod
    def of(cls, template: str) -> CallForm | None:
        """The form of a chat template; None if it knows no tools, or writes calls in another way."""
        if "tools" not in template:
            return None
        if "<tool_call>" in template and re.search(r'"arguments\\*"', template):
            return cls.HERMES
        return cls.LLAMA if re.search(r'"parameters\\*"', template) and "tool_calls" in template else None

    @property
    def repeats(self) -> bool:
        """Whether an answer may contain several calls."""
        return self is CallForm.HERMES

    def grammar(self, tools: Mapping[str, Schema], *, several: bool) -> str:
        """One call, or several, of these tools in llguidance's dialect of Lark. Each tool has a schema of its
        arguments.
        """
        start, middle, end = self.value
        numbered = list(enumerate(tools.items()))
        calls = " | ".join(f"call{number}" for number, _ in numbered)
        rules = ['start: one ("\\n" one)*' if several and self.repeats else "start: one", f"one: {calls}"]
        for number, (name, schema) in numbered:
            before = json.dumps(f"{start}{json.dumps(name, ensure_ascii=False)}{middle}")
            rules.append(f"call{number}: {before} arguments{number} {json.dumps(end)}")
            rules.append(
                f"arguments{number}: %json {json.dumps({**schema, 'x-guidance': {'whitespace_pattern': SPACES}})}"
            )
        return "\n".join(rules) + "\n"


@dataclass(frozen=True)
class CallPiece:
    """A piece of the call with this number, counted from 0. name: in its first piece. arguments: more of their JSON."""

    index: int
    name: str | None
    arguments: str


class _Place(Enum):
    """The place in an answer. START: only space so far. TEXT: beside calls. HEAD: in a call, before its arguments.
    TAIL: after them.
    """

    START = auto()
    TEXT = auto()
    HEAD = auto()
    ARGUMENTS = auto()
    TAIL = auto()


class ToolStream:
    """Separates the calls from the text of one answer, piece by piece. Text that does not call one of these tools stays
    text.

    White space after calls is dropped. found: the number of calls that have begun so far.
    """

    def __init__(self, tools: Collection[str]) -> None:
        self.found = 0
        self._tools = tools
        self._held = ""
        self._place = _Place.START
        self._tag = ""
        """The tag that opened the call, if it has one."""
        self._after_call = False
        self._object = _Object()
        self._shown = ""
        self._pieces: list[CallPiece] = []

    def push(self, text: str) -> tuple[str, list[CallPiece]]:
        """The text that is certain not to be part of a call, and the new pieces of calls."""
        self._held += text
        while self._advance():
            pass
        return self._told()

    def finish(self) -> tuple[str, list[CallPiece]]:
        """The rest of the answer. A call that lacks only its closing tag counts."""
        if self._place is _Place.HEAD and self._is_call(self._held):
            self._held = ""
        if self._place not in (_Place.ARGUMENTS, _Place.TAIL):
            self._show(len(self._held))
        return self._told()

    def _told(self) -> tuple[str, list[CallPiece]]:
        shown, pieces = self._shown, self._pieces
        self._shown, self._pieces = "", []
        return shown, pieces

    def _advance(self) -> bool:
        """Take a step through the held text. Returns whether there may be more to find in it."""
        match self._place:
            case _Place.START:
                return self._start()
            case _Place.TEXT:
                return self._find_call()
            case _Place.HEAD:
                return self._begin_call() or self._end_odd_call()
            case _Place.ARGUMENTS:
                return self._read_arguments()
            case _Place.TAIL:
                return self._end_call()

    def _start(self) -> bool:
        """Decide how the answer begins: the whole of it may be one call without tags."""
        first = self._held.lstrip()[:1]
        if first:
            self._place = _Place.HEAD if first == "{" else _Place.TEXT
        return first != ""

    def _find_call(self) -> bool:
        start = self._held.find(_OPEN)
        if start < 0:
            self._show(len(self._held) - _doubtful(self._held))
            return False
        self._show(start)
        self._place, self._tag = _Place.HEAD, _OPEN
        return True

    def _begin_call(self) -> bool:
        found = _HEAD.match(self._held, len(self._tag))
        if found is None:
            return False
        name = _decoded(found[1])
        if name in self._tools:
            self._held = self._held[found.end() :]
            self._place, self._object = _Place.ARGUMENTS, _Object()
            self._add(name, "")
        else:
            self._show(len(self._tag))
            self._place = _Place.TEXT
        return True

    def _end_odd_call(self) -> bool:
        """End a call that is written in another order, or text that is not a call."""
        end = self._held.find(CALL_END) if self._tag else -1
        if end < 0:
            return False
        if self._is_call(self._held[:end]):
            self._held = self._held[end:]
            self._place = _Place.TAIL
        else:
            self._show(end + len(CALL_END))
            self._place = _Place.TEXT
        return True

    def _read_arguments(self) -> bool:
        length = self._object.end(self._held)
        more, self._held = self._held[:length], self._held[length:]
        if more:
            self._pieces.append(CallPiece(self.found - 1, None, more))
        if self._object.is_closed:
            self._place = _Place.TAIL
        return self._object.is_closed

    def _end_call(self) -> bool:
        closing = CALL_END if self._tag else "}"
        _, found, after = self._held.partition(closing)
        if found:
            self._held, self._after_call, self._place = after, True, _Place.TEXT
        return bool(found)

    def _is_call(self, text: str) -> bool:
        """Note a whole call, which may lack its closing tag. Returns whether the text was one."""
        said = _decoded(text[len(self._tag) :])
        if not isinstance(said, dict):
            return False
        name, arguments = said.get("name"), said.get("arguments", said.get("parameters", {}))
        if not isinstance(name, str) or name not in self._tools or not isinstance(arguments, dict):
            return False
        self._add(name, json.dumps(arguments, ensure_ascii=False))
        return True

    def _add(self, name: str, arguments: str) -> None:
        self._pieces.append(CallPiece(self.found, name, arguments))
        self.found += 1

    def _show(self, length: int) -> None:
        """Show this much of the text that is held."""
        taken, self._held = self._held[:length], self._held[length:]
        if self._after_call:
            taken = taken.lstrip()
            self._after_call = not taken
        self._shown += taken


class _Object:
    """Finds the end of a JSON object that arrives in pieces."""

    def __init__(self) -> None:
        self.is_closed = False
        self._depth = 0
        self._in_string = self._escaped = False

    def end(self, text: str) -> int:
        """The number of characters of the next piece that belong to the object."""
        for index, character in enumerate(text):
            self._take(character)
            if self.is_closed:
                return index + 1
        return len(text)

    def _take(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._in_string:
            self._escaped = character == "\\"
            self._in_string = character != '"'
        elif character == '"':
            self._in_string = True
        else:
            self._depth += (character in "{[") - (character in "}]")
            self.is_closed = self._depth == 0


def _decoded(text: str) -> Any:
    """The decoded JSON; None for text that is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _doubtful(text: str) -> int:
    """The length of the longest end of the text with which an opening tag may begin."""
    return next((n for n in range(min(len(text), len(_OPEN) - 1), 0, -1) if _OPEN.startswith(text[-n:])), 0)
