"""The session behind an answer, which outlives the nodes that it runs on."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from math import inf

import numpy as np

from potluck.coordinator.generation.flight import Flight
from potluck.coordinator.generation.guesses import Guessed, Guesses
from potluck.coordinator.generation.job import Job
from potluck.coordinator.generation.outlook import Outlook
from potluck.coordinator.generation.reading import Reading
from potluck.coordinator.generation.traffic import Traffic
from potluck.coordinator.relay.candidates import Candidates
from potluck.coordinator.sessions.chunks import in_order
from potluck.coordinator.sessions.manager import SessionManager
from potluck.coordinator.sessions.session import Session
from potluck.coordinator.swarm.changes import Changes
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.swarm.tally import Interruption, Remedy, TokenKind
from potluck.errors import RouteLost, Unavailable
from potluck.planning.guessing import MOST_AHEAD

log = logging.getLogger(__name__)

_FAILURES = 5
"""The failures of nodes to run a step that an answer survives between two tokens. Nodes may leave as they like."""
_PATIENCE_S = 60.0
"""Seconds that an interrupted answer waits for the lost layers to be served again."""


def _now() -> float:
    """The loop's clock in seconds."""
    return asyncio.get_running_loop().time()


class Run:
    """The session behind an answer. When stages of its route are lost, others take them over.

    tokens: those that are fed first: the prompt, and what is given of the answer. guesses: about its answer.
    most_rows: the positions that a step may carry. row_bytes: those of a hidden row. traffic: what all answers share.
    cached: how many of the prompt's tokens the nodes held when it began. reading: that of the prompt.
    """

    def __init__(
        self,
        job: Job,
        tokens: list[int],
        guesses: Guesses,
        swarm: Swarm,
        sessions: SessionManager,
        changes: Changes,
        most_rows: int,
        row_bytes: int,
        traffic: Traffic,
    ) -> None:
        self.tokens = tokens
        self.cached = 0
        self.reading = Reading(len(tokens))
        self._swarm = swarm
        self._sessions = sessions
        self._changes = changes
        self._most_rows = most_rows
        self._row_bytes = row_bytes
        self._flight = Flight(guesses, traffic, swarm.forgets)
        # The last token is sampled but never fed, so it needs no position.
        self._positions = len(job.prompt) + max(0, job.max_tokens - 1)
        self._claim = job.claim
        self._session: Session | None = None
        self._done = 0
        self._charged = 0
        self._paid = len(tokens) if job.given else 0
        """The positions that were computed where the answer was begun. They are paid for there."""
        self._mending = False
        self._fed = 0
        """The positions that nodes may hold, which are more than `_done` while steps are under way."""
        self._began = False
        self._avoid: set[str] = set()
        self._interruption = Interruption(self._swarm.tally)
        self._nodes: dict[str, None] = {}

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that have computed the answer, each with its layers, in the order in which they came in."""
        return tuple(self._nodes)

    def _note_nodes(self, session: Session) -> None:
        for stage in session.route:
            node = self._swarm.nodes.get(stage.node)
            if node is not None:
                self._nodes[f"{node.name} {stage.span}"] = None

    @property
    def number(self) -> int | None:
        """The number of its session."""
        return None if self._session is None else self._session.number

    @property
    def guessed(self) -> Guessed:
        """What became of the tokens that were fed before they were known."""
        return self._flight.guessed

    def prepare(self) -> None:
        """Prepare to guess, while the prompt is read."""
        self._flight.prepare(self.tokens)

    def know(self, token: int) -> None:
        """Take the answer's next token, as it was written."""
        self._note_fed()
        self.tokens.append(token)
        if not self._flight.know(token) and self._session is not None:
            self._session.void(len(self.tokens) - 1)  # the next step may come much later

    async def next(self, outlook: Outlook) -> Candidates:
        """Candidates for the token after all known ones, and perhaps guesses fed meanwhile. outlook: what it needs."""
        [candidates] = await self.advance([outlook.ids], outlook.top, outlook)
        return candidates

    async def advance(self, asks: list[tuple[int, ...]], top: int, outlook: Outlook | None = None) -> list[Candidates]:
        """Feed the tokens that were not fed yet. Returns candidates for each of the last `len(asks)` tokens.

        outlook: what the answer's next token needs; with it, guesses may be fed behind the last token.
        """
        failures = 0
        while failures < _FAILURES:
            try:
                session = self._session
                if session is None or not session.is_whole:
                    self.land()
                    # A parked session's rows are not there to be scored.
                    session = await self._whole_session(self.tokens if len(asks) == 1 else [])
                self._begin()
                self._note_fed()
                unfed = len(self.tokens) - self._done
                if outlook is not None and unfed == 1 and session.is_whole:
                    rows = [await self._flight.answer(session, self.tokens, outlook, self._row_s(session))]
                elif unfed <= self._most_rows:
                    rows = await self._step(session, self._done, asks, top)
                else:
                    rows = await self._feed(session, asks, top)
            except RouteLost as error:
                log.debug("%s", error)
                self.land()
                self._interruption.begin(_now())
                if error.node is not None:
                    failures += 1
                    self._avoid.add(error.node)
            else:
                self._done = len(self.tokens)
                self._fed, self._mending = self._done + self._flight.depth, False
                self._interruption.end(_now())
                return rows
        raise Unavailable(f"The answer lost its route {_FAILURES} times.")

    def _row_s(self, session: Session) -> float:
        """The seconds that the slowest stage or link of the route takes for one row."""
        nodes = (self._swarm.nodes.get(stage.node) for stage in session.route)
        rate = min((node.speed.bytes_per_s for node in nodes if node is not None), default=inf)
        return max(session.compute_s, self._row_bytes / rate if len(session.route) > 1 else 0.0)

    async def ask_again(self, ids: tuple[int, ...], top: int) -> Candidates:
        """Other candidates for the latest token, which is fed once more after the nodes have forgotten it."""
        self.land()
        self._done = self._done - 1 if self._swarm.forgets else 0
        [candidates] = await self.advance([ids], top)
        return candidates

    async def _whole_session(self, tokens: list[int]) -> Session:
        """A session whose stages are all there. An answer that has begun waits a while for layers that have just been
        lost.

        Lost stages are mended if somebody can serve exactly these layers; otherwise the answer moves to a new session.
        """
        deadline = _now() + (_PATIENCE_S if self._began else 0.0)
        while True:
            if self._session is not None:
                if await self._mend(self._session):
                    return self._session
                if not self._swarm.missing():
                    self._end_session()
            if self._session is None:
                try:
                    session = await self._open(tokens)
                    if session.is_whole:  # a parked one may have lost a stage since
                        return session
                except Unavailable:
                    if not await self._changes.before(deadline):
                        raise
            elif not await self._changes.before(deadline):
                missing = ", ".join(map(str, self._swarm.missing()))
                raise Unavailable(f"The answer ends here: no node has come to serve layers {missing}.")

    async def _open(self, tokens: list[int]) -> Session:
        session = await self._sessions.open(
            self._positions,
            tokens,
            self._avoid,
            claim=self._claim,
            urgent=self._began,
            on_loading=self.reading.load,
        )
        self._session, self._done, self._fed = session, session.held, session.fed
        if self._began:
            self.reading.begin(session.held, _now())
        else:
            self._charged = max(session.held, self._paid)
        if session.is_whole:
            self._note_nodes(session)
        self._interruption.remedy = Remedy.REPLAYED
        return session

    def _begin(self) -> None:
        """Note, before anything is fed, how much of the prompt the nodes hold."""
        if self._began:
            return
        self._began = True
        self.cached = self._done
        self._charged = max(self._done, self._paid)
        self.reading.begin(self._done, _now())
        tokens = self._swarm.tally.tokens
        tokens[TokenKind.CACHED] += self._done
        tokens[TokenKind.PROMPT] += len(self.tokens) - self._done

    async def _mend(self, session: Session) -> bool:
        """Mend the session. Returns whether it can continue: it is whole, or its node waits for an heir."""
        if session.is_whole:
            return True
        self._interruption.begin(_now())
        self._mending = True
        held = await session.mend(self.tokens[: self._done], self._avoid)
        if held is not None:
            self._mending = False
            self._done, self._interruption.remedy = held, session.remedy
            self._note_nodes(session)
        return not session.is_lost

    async def _feed(self, session: Session, asks: list[tuple[int, ...]], top: int) -> list[Candidates]:
        """Feed tokens in steps of bounded size, several of them at once, so that all stages of the route work."""
        starts = range(self._done, len(self.tokens), self._most_rows)
        steps = (self._step(session, start, asks, top) for start in starts)
        rows: list[Candidates] = []
        async with aclosing(in_order(steps, ahead=len(session.route) + 1)) as done:
            async for candidates in done:
                rows += candidates
                if not rows:  # if a stage is lost now, this much need not be fed again
                    self._done += self._most_rows
        return rows

    async def _step(self, session: Session, start: int, asks: list[tuple[int, ...]], top: int) -> list[Candidates]:
        """Feed the tokens from `start` on, as many as a step may carry.

        The asks belong to the last tokens of all. Those for these tokens go with the step.
        """
        end, unasked = min(start + self._most_rows, len(self.tokens)), len(self.tokens) - len(asks)
        own = tuple(asks[max(0, start - unasked) : max(0, end - unasked)])
        rows = await session.step(start, np.array(self.tokens[start:end], np.int32), top, own)
        if start < self.reading.total:
            self.reading.reach(end, _now())
        return rows

    def land(self) -> None:
        """Let no step be under way. What the nodes hold beyond `_done` they forget with the next step."""
        self._note_fed()
        self._flight.land()
        if self._session is not None:
            self._session.void(self._done)

    def _note_fed(self) -> None:
        """Note what may be under way."""
        self._fed = max(self._fed, len(self.tokens) + self._flight.depth)

    def end(self) -> None:
        """End the run, and its session."""
        self.land()
        self._flight.close()
        self._swarm.tally.guesses.update(self.guessed.counts)
        self._end_session()

    def _end_session(self) -> None:
        """End the session. It is parked if every node holds all that was fed to the end.

        Where a token or guesses were under way, some nodes hold more. They forget it with the next step, if they can. A
        prompt that is under way is closed, so that the nodes need not compute the rest of it.
        """
        if self._session is None:
            return
        # What the nodes held is free, and what they lost is not charged again.
        computed = max(0, self._done - self._charged)
        self._charged += computed
        if self._mending or self._fed - self._done > min(self._swarm.forgets, MOST_AHEAD + 1):
            self._session.close(computed)
        else:
            self._session.park(self.tokens[: self._done], computed, self._fed)
        self._session, self._mending = None, False
