"""Feeds an answer's tokens one by one, and guesses behind them for as long as that pays."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from potluck.coordinator.generation.ahead import Ahead
from potluck.coordinator.generation.guesses import Guess, Guessed, Guesses
from potluck.coordinator.generation.outlook import Outlook
from potluck.coordinator.generation.traffic import Traffic
from potluck.coordinator.relay.candidates import Candidates
from potluck.coordinator.sessions.session import Session
from potluck.coordinator.swarm.tally import Source
from potluck.planning.guessing import Pass, Share, most_ahead
from potluck.wire.rows import Ids

_Answer = asyncio.Task[list[Candidates]]

_SHARE_WEIGHT = 0.1
"""The weight of an answer's latest guess in its share of right ones."""
_ASK_WEIGHT = 0.2
"""The weight of the small model's latest guess in its mean time."""


class Flight:
    """The tokens of one answer that are under way. traffic: what all answers share. forgets: the most positions that a
    session can surely forget, and so the most guesses that can be taken back.
    """

    def __init__(self, guesses: Guesses, traffic: Traffic, forgets: int) -> None:
        self.guessed = Guessed()
        self._guesses = guesses
        self._traffic = traffic
        self._forgets = forgets
        self._ahead: Ahead[_Answer] = Ahead(self.guessed)
        self._shares = {source: Share(share.value, _SHARE_WEIGHT) for source, share in traffic.shares.items()}
        self._ask_s = 0.0
        """The mean time of the small model's guesses."""
        self._has_guessed = False
        """Whether there were guesses since nothing was under way."""
        self._outlook: Outlook | None = None
        """What comes after all that is under way; None if nothing may."""
        self._asking: asyncio.Task[Guess | None] | None = None
        """The small model's guess of what comes there, which it has not made yet."""
        self._next: Guess | None = None
        """The guess of what comes there, which is not under way."""

    def prepare(self, prompt: Sequence[int]) -> None:
        """Let the small model read the prompt while the nodes do, if it will probably be asked how that goes on."""
        if self._guesses.has_model and self._traffic.is_of_use:
            self._asking = asyncio.create_task(self._ask(prompt, (), None))

    async def answer(self, session: Session, tokens: Sequence[int], outlook: Outlook, row_s: float) -> Candidates:
        """Candidates for the token after these, of which the last one may be under way already.

        row_s: the seconds that the slowest stage or link of the route takes for one row.
        """
        begin, times = _now(), self._traffic.times[session.route]
        times.row_s = row_s or times.row_s
        now = Pass(pass_s=times.pass_s, row_s=times.row_s, sessions=self._traffic.answers)
        may_guess = now.room > 1 and self._forgets > 0 and times.trial.is_on
        candidates = await self._answer(session, tokens, outlook, now, may_guess)
        if self._has_guessed:
            times.trial.note(_now() - begin, times.plain_s)
        else:
            times.trial.note_rest()
        return candidates

    async def _answer(
        self, session: Session, tokens: Sequence[int], outlook: Outlook, now: Pass, may_guess: bool
    ) -> Candidates:
        if self._ahead.first is None:
            self._has_guessed = False
            self._traffic.is_of_use = may_guess
            position, token = len(tokens) - 1, tokens[-1]
            if not may_guess:
                [candidates] = await self._pass(session, position, token, outlook)
                return candidates
            self._outlook = outlook
            self._ahead.feed(position, _started(self._pass(session, position, token, outlook)))
        first = self._ahead.first
        assert first is not None
        if not may_guess:
            self._outlook = None
        await self._feed_guesses(session, tokens, now, first.answer)
        [candidates] = await first.answer
        return candidates

    async def _pass(self, session: Session, position: int, token: int, outlook: Outlook) -> list[Candidates]:
        """Feed a token that is known, and note how long it takes."""
        begin = _now()
        rows = await session.step(position, np.array([token], np.int32), outlook.top, (outlook.ids,))
        plain = not self._has_guessed and self._asking is None
        self._traffic.times[session.route].note(_now() - begin, plain=plain)
        return rows

    async def _feed_guesses(self, session: Session, tokens: Sequence[int], now: Pass, answer: _Answer) -> None:
        """Feed guesses until as many are under way as pay, or nobody has one, or the answer comes first."""
        while self._outlook is not None:
            if self._next is None:
                self._next = await self._guess(tokens, self._outlook, now, answer)
            if self._next is None or self._ahead.depth >= self._most(self._next.source, now):
                return
            guess, self._next = self._next, None
            self._outlook = self._outlook.after(guess.token)
            if self._outlook is not None:
                position = len(tokens) + self._ahead.depth
                ids = np.array([guess.token], np.int32)
                step = session.step(position, ids, self._outlook.top, (self._outlook.ids,), guessed=True)
                self._ahead.feed(position, _started(step), guess)
                self._has_guessed = True

    def _most(self, source: Source, now: Pass) -> int:
        """The most guesses of this source that may be under way."""
        if source is Source.MODEL:
            now = replace(now, row_s=max(now.row_s, self._ask_s))
        # A row that is asked for again is forgotten together with the guesses behind it.
        forgotten = self._forgets - (self._outlook is not None and self._outlook.allowed is not None)
        return min(most_ahead(self._shares[source].value, now), forgotten)

    def _may_ask(self, ahead: int, now: Pass) -> bool:
        """Whether to ask the small model for the guess behind so many. Even one that is not fed may prove right."""
        return self._guesses.has_model and ahead <= self._most(Source.MODEL, now)

    async def _guess(self, tokens: Sequence[int], outlook: Outlook, now: Pass, answer: _Answer) -> Guess | None:
        """The guess of what comes after all that is under way; None if there is none, or the answer is there first."""
        if self._asking is None:
            ahead = self._ahead.guesses
            copied = self._guesses.copy(tokens, ahead, outlook.allowed)
            if copied is not None or not self._may_ask(len(ahead), now):
                return copied
            self._asking = asyncio.create_task(self._ask(tokens, ahead, outlook.allowed))
        await asyncio.wait((self._asking, answer), return_when=asyncio.FIRST_COMPLETED)
        if not self._asking.done():
            return None
        asking, self._asking = self._asking, None
        self._has_guessed = True
        return asking.result()

    async def _ask(self, tokens: Sequence[int], ahead: Sequence[int], allowed: Ids | None) -> Guess | None:
        """The small model's guess. How long it takes is noted if it follows another: the model has read the rest."""
        begin = _now()
        guess = await self._guesses.ask(tokens, ahead, allowed)
        if ahead:
            self._ask_s += _ASK_WEIGHT * (_now() - begin - self._ask_s)
        return guess

    def know(self, token: int) -> bool:
        """Take the token that follows the first one. Returns whether it is under way; if not, all guesses are void."""
        guess = self._ahead.second.guess if self._ahead.second is not None else self._next
        if guess is not None:  # it counts, fed or not, so that it is known when guesses begin to pay
            for shares in (self._shares, self._traffic.shares):
                shares[guess.source].note(guess.token == token)
        _cancel(row.answer for row in self._ahead.know(token))
        if self._ahead.first is None:
            self._drop_next()
        return self._ahead.first is not None

    def land(self) -> None:
        """Have nothing under way any more."""
        _cancel(row.answer for row in self._ahead.clear())
        self._drop_next()

    def _drop_next(self) -> None:
        """Drop the guess of what comes next, which was made for other tokens."""
        self._next = None
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    @property
    def depth(self) -> int:
        """The number of guesses that are under way."""
        return self._ahead.depth

    def close(self) -> None:
        """End the flight for good."""
        self.land()
        self._guesses.close()


def _now() -> float:
    """The loop's clock in seconds."""
    return asyncio.get_running_loop().time()


def _started(step: Coroutine[Any, Any, list[Candidates]]) -> _Answer:
    """The step, which begins now. Nobody may ever look at its answer, or at its error."""
    answer = asyncio.create_task(step)
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
    return answer


def _cancel(answers: Iterable[_Answer]) -> None:
    for answer in answers:
        answer.cancel()
