"""The steps of one token each that a session has under way: the token that is known, and guesses that follow it. Pure.

`feed` what is sent, and `know` the token that the sampler chose when the first answer had come. If it is the guess that
follows, that guess's answer is the next one. If it is another token, all guesses are void.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from potluck.coordinator.generation.guesses import Guess, Guessed
from potluck.coordinator.swarm.tally import Outcome

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row(Generic[T]):
    """A token that is under way at a position. guess: None if it was known when it was fed. answer: brings its
    answer.
    """

    position: int
    guess: Guess | None
    answer: T


class Ahead(Generic[T]):
    """The tokens of one session that are under way. guessed: where the guesses are counted."""

    def __init__(self, guessed: Guessed) -> None:
        self._guessed = guessed
        self._rows: deque[Row[T]] = deque()

    @property
    def first(self) -> Row[T] | None:
        """The latest token that is known, if it is under way."""
        return self._rows[0] if self._rows else None

    @property
    def second(self) -> Row[T] | None:
        """The guess of the token that is known next."""
        return self._rows[1] if len(self._rows) > 1 else None

    @property
    def guesses(self) -> list[int]:
        """The guessed tokens behind the first one."""
        return [row.guess.token for row in islice(self._rows, 1, None) if row.guess is not None]

    @property
    def depth(self) -> int:
        """The number of guesses behind the first token."""
        return max(0, len(self._rows) - 1)

    def feed(self, position: int, answer: T, guess: Guess | None = None) -> None:
        """Note that a token was sent, behind all others."""
        if self._rows and position != self._rows[-1].position + 1:
            raise ValueError(f"position {position} does not follow {self._rows[-1].position}")
        self._rows.append(Row(position, guess, answer))

    def know(self, token: int) -> list[Row[T]]:
        """Take the token that follows the first one. Returns the rows that are void."""
        if self._rows:
            self._rows.popleft()
        if self.first is None or self.first.guess is None:
            return []
        guess = self.first.guess
        self._guessed.note(guess.source, Outcome.RIGHT if guess.token == token else Outcome.WRONG)
        return [] if guess.token == token else self.clear()

    def clear(self) -> list[Row[T]]:
        """Have nothing under way any more. Returns the rows that were. Those behind the first one count as void."""
        void = list(self._rows)
        self._rows.clear()
        for row in void[1:]:
            assert row.guess is not None
            self._guessed.note(row.guess.source, Outcome.VOID)
        return void
