"""Counts what has happened since the coordinator started, in numbers that only grow. Pure: times are passed in."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import StrEnum


class Incident(StrEnum):
    """Something that happened to a node. lost: it vanished, or was cut off, without having left cleanly."""

    JOINED = "joined"
    LEFT = "left"
    LOST = "lost"
    STALLED = "stalled"
    MOVED = "moved"
    PAUSED = "paused"
    QUARANTINED = "quarantined"


class Remedy(StrEnum):
    """How an answer continued: with keys and values that moved, with ones rebuilt from a journal, or from its first
    token on.
    """

    MOVED = "moved"
    REBUILT = "rebuilt"
    REPLAYED = "replayed"


class TokenKind(StrEnum):
    """A kind of token. cached: part of a prompt, held by the nodes before it came. prompt: the rest of it."""

    PROMPT = "prompt"
    CACHED = "cached"
    GENERATED = "generated"


class Source(StrEnum):
    """The source of a guess: the request's prediction, a grammar that lets only one token come, a repetition in the
    session's own text, or a small model.
    """

    PREDICTION = "prediction"
    GRAMMAR = "grammar"
    REPEAT = "repeat"
    MODEL = "model"


class Outcome(StrEnum):
    """What became of a guess that was fed: it came, another token came, or it followed a wrong one."""

    RIGHT = "right"
    WRONG = "wrong"
    VOID = "void"


@dataclass(slots=True)
class Tally:
    """The counts. rows: those that nodes computed, one for each position and stage. opened: new sessions; resumed:
    others.

    guesses: tokens that were fed before they were known, by their source and by what became of them.
    mended: interruptions of answers, and mending_s: the seconds that they took.
    """

    incidents: Counter[Incident] = field(default_factory=Counter)
    tokens: Counter[TokenKind] = field(default_factory=Counter)
    guesses: Counter[tuple[Source, Outcome]] = field(default_factory=Counter)
    rows: int = 0
    opened: int = 0
    resumed: int = 0
    mended: Counter[Remedy] = field(default_factory=Counter)
    mending_s: defaultdict[Remedy, float] = field(default_factory=lambda: defaultdict(float))


class Interruption:
    """The interruption of an answer, which begins when a stage is lost or about to leave, and ends when the answer
    continues.

    remedy: what it takes, as far as is known.
    """

    def __init__(self, tally: Tally) -> None:
        self.remedy = Remedy.REPLAYED
        self._tally = tally
        self._since: float | None = None

    def begin(self, now: float) -> None:
        """Begin the interruption, unless it has begun before."""
        if self._since is None:
            self._since = now

    def end(self, now: float) -> None:
        """End the interruption and count it, if there was one."""
        if self._since is not None:
            self._tally.mended[self.remedy] += 1
            self._tally.mending_s[self.remedy] += now - self._since
            self._since = None
