"""Tool calls in a model's own words: text in, and out the text beside them and the calls. Without I/O.

Two ways of writing them: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, anywhere and several (Hermes, Qwen),
and an answer that is nothing but `{"name": …, "parameters": {…}}` (Llama 3).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class ToolCall:
    """arguments: a JSON object, as text."""

    name: str
    arguments: str


class ToolStream:
    """Of one answer, piece by piece. What is no call of one of these tools stays text; white space after calls goes.

    found: how many calls came so far.
    """

    def __init__(self, tools: Collection[str]) -> None:
        self.found = 0
        self._tools = tools
        self._held = ""
        self._begun = False
        self._after_call = False

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """The text that is certain to be no part of a call, and the calls that are complete."""
        self._held += text
        if not self._begun and self._may_be_bare():
            return "", []
        shown, calls = "", list[ToolCall]()
        while (start := self._held.find(_OPEN)) >= 0 and (end := self._held.find(_CLOSE, start)) >= 0:
            call = self._parse(self._held[start + len(_OPEN) : end])
            end += len(_CLOSE)
            shown += self._take(end if call is None else start)
            if call is not None:
                calls.append(call)
                self._held = self._held[end - start :]
                self._after_call = True
        shown += self._take(start if start >= 0 else len(self._held) - _doubtful(self._held))
        self.found += len(calls)
        return shown, calls

    def _take(self, length: int) -> str:
        """So much of the text that is held."""
        taken, self._held = self._held[:length], self._held[length:]
        if self._after_call:
            taken = taken.lstrip()
            self._after_call = not taken
        return taken

    def finish(self) -> tuple[str, list[ToolCall]]:
        """The rest. A call that lacks only its closing tag counts."""
        before, tag, inside = self._held.partition(_OPEN)
        call = self._parse(inside) if tag else None if self._begun else self._parse(before)
        if call is None:
            return self._take(len(self._held)), []
        self.found += 1
        return self._take(len(before)) if tag else "", [call]

    def _may_be_bare(self) -> bool:
        """Whether the whole answer may be one call without tags. Asked again until its first character is known."""
        first = self._held.lstrip()[:1]
        self._begun = first not in ("", "{")
        return not self._begun

    def _parse(self, text: str) -> ToolCall | None:
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(said, dict) or said.get("name") not in self._tools:
            return None
        arguments = said.get("arguments", said.get("parameters", {}))
        return (
            ToolCall(said["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None
        )


def _doubtful(text: str) -> int:
    """The length of the longest end of the text with which an opening tag begins."""
    return next((n for n in range(min(len(text), len(_OPEN) - 1), 0, -1) if _OPEN.startswith(text[-n:])), 0)
