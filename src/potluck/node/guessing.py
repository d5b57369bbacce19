"""Guesses how answers go on, with a whole small model: what it reads and guesses next, and which answers it forgets.

It is told how the answers really go on while it guesses, and so may have guessed in vain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from potluck.engine.base import Engine, Segment
from potluck.errors import EngineError, WireError
from potluck.wire.guessing import Follow, Guessed, Leave

_FEWEST, _MOST = 8, 32
"""The tokens of an answer that are read at once."""

_TURN_S = 0.03
"""The seconds that this should take at least, and at most twice as many: the guesses of others and what is said wait
meanwhile.
"""

_KEPT_S = 5.0
"""The seconds for which an answer keeps its room, however many others want it."""


@dataclass(slots=True)
class _Answer:
    """An answer. tokens: the first `told` of them are what was told, and behind them are the guesses.

    number, until: as `Follow` has them. served: when something was computed for it last.
    """

    name: int
    tokens: list[int] = field(default_factory=list)
    told: int = 0
    number: int = 0
    until: int = 0
    served: float = 0.0

    @property
    def is_wanting(self) -> bool:
        return 0 < len(self.tokens) < self.until


class Guessing:
    """Guesses for many answers with an engine that runs all layers. tell: receives the guesses, each when it is made.

    vocabulary: the ids below this may be guessed. clock: tells the seconds.

    An answer is a session of the engine, which holds a beginning of its tokens. For want of room, the engine forgets
    answers that have not gone on for a while. They are read again when they do.
    """

    def __init__(
        self, engine: Engine, vocabulary: int, tell: Callable[[Guessed], None], clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._vocabulary = vocabulary
        self._tell = tell
        self._answers: dict[int, _Answer] = {}
        """The answers by their names. The one that was guessed last is at the end."""
        self._clock = clock
        self._piece = _FEWEST
        self._reads_next = False

    @property
    def is_wanted(self) -> bool:
        """Whether there is something to compute."""
        return any(answer.is_wanting for answer in self._answers.values())

    def take(self, message: Follow | Leave) -> None:
        """Take in how an answer goes on, or that it has ended. Raises WireError for what cannot be."""
        match message:
            case Leave(name):
                self._answers.pop(name, None)
                self._engine.close(name)
            case Follow():
                self._follow(self._answers.setdefault(message.answer, _Answer(message.answer)), message)

    def _follow(self, answer: _Answer, told: Follow) -> None:
        if not 0 <= told.position <= len(answer.tokens):
            raise WireError(f"An answer of {len(answer.tokens)} tokens cannot go on at {told.position}.")
        if told.number != answer.number:
            self._turn(answer, told)
        answer.until = told.until

    def _turn(self, answer: _Answer, told: Follow) -> None:
        """Keep what was guessed behind the new tokens if the answer went on like that before, and tell it again."""
        end = told.position + len(told.tokens)
        same = told.position + _agreeing(answer.tokens[told.position : end], told.tokens)
        if same < end or end < answer.told:
            answer.tokens[told.position :] = told.tokens
            self._forget(answer, same)
        answer.number, answer.told = told.number, end
        for token in answer.tokens[end:]:
            self._tell(Guessed(answer.name, answer.number, token))

    def _forget(self, answer: _Answer, length: int) -> None:
        """Let the engine hold no more than so many tokens of the answer."""
        if self._engine.length(answer.name) > length:
            try:
                self._engine.truncate(answer.name, length)
            except EngineError:  # a model that can only forget all of it
                self._engine.close(answer.name)

    def run(self) -> None:
        """Compute for a while, and tell what was guessed. Something must be wanted."""
        wanting = [answer for answer in self._answers.values() if answer.is_wanting]
        ready = [answer for answer in wanting if self._unread(answer) <= _FEWEST]
        reading = [answer for answer in wanting if self._unread(answer) > _FEWEST]
        reads = bool(reading) and (self._reads_next or not ready)
        if reads:
            began = self._clock()
            self._compute(reading[:1])
            self._measure(self._clock() - began)
        else:
            self._compute(ready[: self._engine.capacity.rows // _FEWEST])
        self._reads_next = not reads

    def _measure(self, seconds: float) -> None:
        """Read more or fewer tokens at once, after so many took these seconds."""
        if seconds < _TURN_S:
            self._piece = min(2 * self._piece, _MOST)
        elif seconds > 2 * _TURN_S:
            self._piece = max(self._piece // 2, _FEWEST)

    def _unread(self, answer: _Answer) -> int:
        """The tokens that have to be read before the next one can be guessed, which are at least one."""
        return len(answer.tokens) - min(self._engine.length(answer.name), len(answer.tokens) - 1)

    def _compute(self, batch: list[_Answer]) -> None:
        """Compute for as many of these answers as there is room for. The others are given up until they go on."""
        while not self._has_room(batch):
            if not self._make_room(batch):
                batch.pop().until = 0
        if not batch:
            return
        outputs = self._engine.forward([self._segment(answer) for answer in batch])
        for answer, logits in zip(batch, outputs, strict=True):
            answer.served = self._clock()
            if len(logits):
                token = int(logits[0, : self._vocabulary].argmax())
                answer.tokens.append(token)
                self._tell(Guessed(answer.name, answer.number, token))
                self._answers[answer.name] = self._answers.pop(answer.name)

    def _segment(self, answer: _Answer) -> Segment:
        """The next tokens for the engine to read. If they are the last ones, a guess is wanted."""
        self._forget(answer, len(answer.tokens) - 1)  # without reading the last one there is nothing to guess by
        held = self._engine.length(answer.name)
        data = np.array(answer.tokens[held : held + self._piece], np.int32)
        is_last = held + len(data) == len(answer.tokens)
        return Segment(answer.name, held, data, self._engine.span.last, int(is_last))

    def _has_room(self, batch: list[_Answer]) -> bool:
        """Whether the engine can hold what these answers have next, beside what it holds."""
        lengths = {name: length for name in self._answers if (length := self._engine.length(name))}
        lengths |= {one.name: min(len(one.tokens), lengths.get(one.name, 0) + self._piece) for one in batch}
        capacity = self._engine.capacity
        return len(lengths) <= capacity.sessions and sum(lengths.values()) <= capacity.positions

    def _make_room(self, batch: list[_Answer]) -> bool:
        """Let the engine forget the answer that was not served for longest. False if there is none to forget.

        What was served lately is kept: or else answers that do not fit together would be read again and again in turns.
        """
        others = (one for one in self._answers.values() if one not in batch and self._engine.length(one.name))
        oldest = min(others, key=lambda one: one.served, default=None)
        if oldest is None or self._clock() - oldest.served < _KEPT_S:
            return False
        self._engine.close(oldest.name)
        return True


def _agreeing(some: list[int], others: list[int]) -> int:
    """The number of tokens with which both begin."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(some), len(others)))
