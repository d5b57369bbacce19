"""Thinking (reasoning): what a model says to itself before its answer, told from the answer by marks. Without I/O.

Every model has marks of its own, such as `<think>…</think>`. Either the chat template writes the first one at the end
of the prompt, or the model does at the start of its answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, auto
from functools import cache
from typing import Any, NamedTuple

FIELDS = ("reasoning_content", "reasoning", "thinking")
"""The names under which clients send a message's thinking, and templates ask for it."""

THINKING_PARTS = ("thinking", "redacted_thinking", "reasoning")
"""The types of a content part that is thinking."""

_BETWEEN = "\n\n"
"""What separates parts of an answer that stood apart."""


class Place(Enum):
    """A place in an answer. BEFORE: where thinking or text may begin. OPENED: just after the mark that opens thinking.

    THOUGHT, TEXT: in the middle of either.
    """

    BEFORE = auto()
    OPENED = auto()
    THOUGHT = auto()
    TEXT = auto()

    @property
    def is_thinking(self) -> bool:
        return self in (Place.OPENED, Place.THOUGHT)


class Marks(NamedTuple):
    """The texts around thinking.

    heads: texts that may stand before thinking or before the answer, and belong to neither.
    several: an answer consists of several parts, each of which ends as thinking does.
    """

    begin: str
    end: str
    heads: tuple[str, ...] = ()
    several: bool = False

    @property
    def all(self) -> str:
        """All of them in one text."""
        return "".join((self.begin, self.end, *self.heads))

    def end_of(self, prompt: str, said: str) -> Place:
        """The place where this prompt ends. said: what the answer begins with in the prompt."""
        _, found, after = prompt.rpartition(self.begin)
        if found and self.end not in after and said.strip().endswith(after.strip()):
            return Place.THOUGHT if after.strip() else Place.OPENED
        return Place.TEXT if said.strip() else Place.BEFORE


class Thinking(Enum):
    """The kinds of marks: those of DeepSeek, Qwen and most others come first."""

    THINK = Marks("<think>", "</think>")
    MISTRAL = Marks("[THINK]", "[/THINK]")
    COHERE = Marks("<|START_THINKING|>", "<|END_THINKING|>")
    SEED = Marks("<seed:think>", "</seed:think>")
    MINIMAX = Marks("<mm:think>", "</mm:think>")
    GEMMA = Marks("<|channel>thought", "<channel|>")
    APERTUS = Marks("<|inner_prefix|>", "<|inner_suffix|>")
    HARMONY = Marks(
        "<|channel|>analysis<|message|>",
        "<|end|>",
        ("<|start|>assistant", "<|channel|>final<|message|>", "<|channel|>commentary<|message|>"),
        several=True,
    )
    SOLAR = Marks("<|think|>", "<|end|>", ("<|begin|>assistant", "<|content|>"), several=True)

    @classmethod
    def of(cls, template: str) -> Thinking | None:
        """The kind that a chat template mentions."""
        return next((kind for kind in cls if kind.value.begin in template), None)


class ThinkingStream:
    """Separates the thinking of one answer from its text, piece by piece. However it is cut, the pieces put together
    are the same.

    White space around thinking is dropped, and so are the marks. place: where the prompt ends.
    tokens: how many have been thinking so far, their marks included.
    """

    def __init__(self, marks: Marks, place: Place = Place.BEFORE) -> None:
        self.tokens = 0
        self._marks = marks
        self._place = place
        self._held = ""
        self._undecided = 0
        """The tokens of the text that is held."""
        self._is_marked = place.is_thinking
        """Whether there was a mark, so that white space belongs to it."""
        self._is_new = True
        """Whether nothing of the part at this place has been told yet."""
        self._told = dict.fromkeys(Place, "")
        self._had = dict.fromkeys(Place, False)

    def push(self, text: str, tokens: int = 1) -> tuple[str, str]:
        """The thinking and the text that are certain now and were not before. tokens: how many the piece has."""
        self._held += text
        self._undecided += tokens
        is_thinking = self._place.is_thinking
        while self._advance():
            is_thinking |= self._place.is_thinking
        if is_thinking:
            self.tokens += self._undecided
        if is_thinking or self._place is Place.TEXT:
            self._undecided = 0
        return self._taken()

    def finish(self) -> tuple[str, str]:
        """The rest of the answer. Thinking that was not closed stays thinking."""
        rest, self._held = self._held, ""
        if self._place is Place.OPENED:
            rest = rest.lstrip()
            self._enter(Place.THOUGHT)
        if self._place is Place.BEFORE:
            # Held is what may become a mark. Where marks are whole tokens, half of one is an answer that was cut.
            rest = "" if self._marks.several else rest.lstrip() if self._is_marked else rest
            self._enter(Place.TEXT)
        self._tell(rest.rstrip() if self._place is Place.THOUGHT else rest)
        return self._taken()

    def _taken(self) -> tuple[str, str]:
        thought, text = self._told[Place.THOUGHT], self._told[Place.TEXT]
        self._told = dict.fromkeys(Place, "")
        return thought, text

    def _advance(self) -> bool:
        """Take a step through the held text. Returns whether there may be more to find in it."""
        match self._place:
            case Place.BEFORE:
                return self._begin()
            case Place.OPENED:
                return self._open()
            case Place.THOUGHT | Place.TEXT:
                return self._read()

    def _begin(self) -> bool:
        """Decide what comes: a mark, or text."""
        rest, marks = self._held.lstrip(), (self._marks.begin, *self._marks.heads)
        for mark in marks:
            if rest.startswith(mark):
                self._held, self._is_marked = rest[len(mark) :], True
                self._enter(Place.OPENED if mark == self._marks.begin else Place.BEFORE)
                return True
        if any(mark.startswith(rest) for mark in marks):
            return False
        self._held = rest if self._is_marked else self._held
        self._enter(Place.TEXT)
        return True

    def _open(self) -> bool:
        """Find where the thinking begins. Some models write the mark although the prompt ends with it."""
        rest, mark = self._held.lstrip(), self._marks.begin
        if rest.startswith(mark):
            self._held = rest[len(mark) :]
            return True
        if mark.startswith(rest):
            return False
        self._held = rest
        self._enter(Place.THOUGHT)
        return True

    def _read(self) -> bool:
        """Tell what is held up to the end of the part, or as far as it is certain that this is not the end."""
        start = self._held.find(self._marks.end) if self._ends else -1
        doubtful = _doubtful(self._held, self._marks.end) if self._ends else 0
        piece = self._held[: start if start >= 0 else len(self._held) - doubtful]
        if self._place is Place.THOUGHT:
            piece = piece.rstrip()  # what follows decides whether the space belongs to it
        self._held = self._held[len(piece) :]
        self._tell(piece)
        if start < 0:
            return False
        self._held, self._is_marked = self._held.partition(self._marks.end)[2], True
        self._enter(Place.BEFORE)
        return True

    @property
    def _ends(self) -> bool:
        """Whether the part at this place ends with a mark."""
        return self._place is Place.THOUGHT or self._marks.several

    def _enter(self, place: Place) -> None:
        self._place, self._is_new = place, True

    def _tell(self, piece: str) -> None:
        if piece:
            between = _BETWEEN if self._is_new and self._had[self._place] else ""
            self._told[self._place] += between + piece
            self._had[self._place], self._is_new = True, False


def _doubtful(text: str, mark: str) -> int:
    """The length of the longest end of the text with which the mark may begin."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-n:])), 0)


def gathered(message: Mapping[str, Any]) -> dict[str, Any]:
    """An assistant's message that has its thinking in one field, wherever the client put it."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    thoughts = [part for part in parts if _is_thought(part)]
    given = [message.get(name) for name in FIELDS] + ["\n".join(filter(None, map(_thought, thoughts)))]
    thought = next((text for text in given if isinstance(text, str) and text.strip()), None)
    kept = {name: value for name, value in message.items() if name not in FIELDS}
    if thoughts:
        kept["content"] = [part for part in parts if not _is_thought(part)]
    return kept if thought is None else {**kept, FIELDS[0]: thought}


def _is_thought(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") in THINKING_PARTS


def _thought(part: Mapping[str, Any]) -> str | None:
    """The text of a content part that is thinking, where it has one that can be read."""
    return next((text for name in ("thinking", "text") if isinstance(text := part.get(name), str)), None)


@cache
def _read_by(template: str) -> tuple[str, ...]:
    """The fields of thinking that a template mentions."""
    return tuple(name for name in FIELDS if re.search(rf"""[."']{name}\b""", template))


def recalled(message: Mapping[str, Any], marks: Marks, template: str) -> dict[str, Any]:
    """An assistant's message of the past whose thinking is not in its text, but in the fields that the template reads.

    Templates know which thinking a model was trained to see again: that of the tool calls under way, if any.
    """
    thought, text = message.get(FIELDS[0]), message["content"]
    if text.lstrip().startswith(marks.begin) and marks.end in text:
        stream = ThinkingStream(marks)
        pieces = [stream.push(text), stream.finish()]
        inside, text = ("".join(some) for some in zip(*pieces, strict=True))
        thought = thought or inside
    told = {name: value for name, value in message.items() if name != FIELDS[0]}
    names = [*_read_by(template)] if thought else []
    if text and "tool_calls" in message and "thinking" in names:
        names.remove("thinking")  # templates that call it so refuse both in a message that calls tools
    return {**told, "content": text, **dict.fromkeys(names, thought)}
