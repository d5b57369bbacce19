"""Guesses the next tokens of an answer, so that they can be fed before they are known. The sampler decides which were
right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from potluck.coordinator.swarm.tally import Outcome, Source
from potluck.wire.rows import Ids

_LONG_REPEAT = 8
"""The tokens that must have come before in the same order, so that what followed is expected to follow again."""

_SHORT_REPEAT = 3
"""The same for a prediction, which is there to be followed."""


class Guess(NamedTuple):
    """A token that probably comes next, and who guessed it."""

    token: int
    source: Source


@dataclass(slots=True)
class Guessed:
    """The guesses of one answer that were fed, by their source and by what became of them."""

    counts: Counter[tuple[Source, Outcome]] = field(default_factory=Counter)

    def note(self, source: Source, outcome: Outcome) -> None:
        self.counts[source, outcome] += 1

    def of(self, *outcomes: Outcome, source: Source | None = None) -> int:
        """The number of guesses with one of these outcomes, of one source or of all."""
        return sum(
            count for (own, outcome), count in self.counts.items() if outcome in outcomes and source in (None, own)
        )


class Guesser(Protocol):
    """Guesses the tokens of one answer, one at a time. `close` it when the answer has ended."""

    async def guess(self, tokens: Sequence[int], ahead: int) -> int | None:
        """The token that probably follows these; None if there is no good guess.

        tokens: the prompt, the answer so far, and guesses of which nobody knows yet whether they are right: the last
        `ahead` of them. Whoever waits for a guess may be cancelled, and may then ask about other tokens.
        """

    @property
    def is_here(self) -> bool:
        """Whether there is a small model that can guess now."""

    def close(self) -> None: ...


class GuesserModel(Protocol):
    """A small model that guesses for many answers at once."""

    def open(self) -> Guesser:
        """A guesser for one answer. It costs nothing until it is asked, and has no guesses while the model is away."""


class Copies:
    """Guesses that a text goes on as it did before: after the same `least` tokens comes the same token again."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._buffer = np.zeros(0, np.int32)
        self._length = 0
        self._at = 0
        """The place of the latest guess."""

    def learn(self, tokens: Sequence[int]) -> None:
        """Read a text, which begins with what was read of it before."""
        known, self._length = self._length, max(self._length, len(tokens))
        if self._length > len(self._buffer):
            self._buffer = np.concatenate([self._buffer[:known], np.zeros(self._length, np.int32)])
        self._buffer[known : self._length] = tokens[known:]

    def guess(self, tokens: Sequence[int]) -> int | None:
        """The token that came after the last ones of these: the next time in the text, or else the last time."""
        text = self._buffer[: self._length]
        if min(len(tokens), len(text) - 1) < self._least:
            return None
        # An index would answer sooner, but making it of a long text would take longer than all questions.
        places = np.flatnonzero(text[self._least - 1 : -1] == tokens[-1]) + self._least
        for back in range(2, self._least + 1):
            places = places[text[places - back] == tokens[-back]]
        if not places.size:
            return None
        following = int(np.searchsorted(places, self._at, side="right"))
        self._at = int(places[min(following, places.size - 1)])
        return int(text[self._at])


class Guesses:
    """The guesses about one answer, of whoever has one first. `close` it when the answer has ended.

    prediction: what the request says that the answer will be. model: that of a small model.
    """

    def __init__(self, prompt: Sequence[int], prediction: Sequence[int] = (), model: Guesser | None = None) -> None:
        self._predicted = Copies(_SHORT_REPEAT)
        if prediction:
            self._predicted.learn([*prompt[-_SHORT_REPEAT:], *prediction])
        self._repeats = Copies(_LONG_REPEAT)
        self._model = model

    @property
    def has_model(self) -> bool:
        """Whether there is a small model that can guess now."""
        return self._model is not None and self._model.is_here

    def copy(self, tokens: Sequence[int], ahead: Sequence[int], allowed: Ids | None) -> Guess | None:
        """A guess that takes no time. ahead: the guesses that follow the tokens. allowed: those that may come; None if
        all may.
        """
        recent = [*tokens[-_LONG_REPEAT:], *ahead]  # a whole prompt would take long to copy each time
        if (token := self._predicted.guess(recent)) is not None and _may(token, allowed):
            return Guess(token, Source.PREDICTION)
        if allowed is not None and len(allowed) == 1:
            return Guess(int(allowed[0]), Source.GRAMMAR)
        self._repeats.learn(tokens)
        if (token := self._repeats.guess(recent)) is not None and _may(token, allowed):
            return Guess(token, Source.REPEAT)
        return None

    async def ask(self, tokens: Sequence[int], ahead: Sequence[int], allowed: Ids | None) -> Guess | None:
        """The small model's guess, if there is one."""
        token = await self._model.guess([*tokens, *ahead], len(ahead)) if self._model is not None else None
        return Guess(token, Source.MODEL) if token is not None and _may(token, allowed) else None

    def close(self) -> None:
        if self._model is not None:
            self._model.close()


def _may(token: int, allowed: Ids | None) -> bool:
    """Whether the token may come next."""
    if allowed is None:
        return True
    place = int(np.searchsorted(allowed, token))
    return place < len(allowed) and int(allowed[place]) == token
