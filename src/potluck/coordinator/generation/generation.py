"""One request's whole life: prefill, the token loop, replay when a node is lost, and the end of its session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from potluck.coordinator.generation.guesses import GuesserModel
from potluck.coordinator.generation.job import Delta, Job
from potluck.coordinator.generation.reading import Reading, under_way
from potluck.coordinator.generation.writer import Writer, score_prompt
from potluck.coordinator.relay.candidates import Candidates
from potluck.coordinator.sessions.chunks import in_order
from potluck.coordinator.sessions.manager import SessionManager
from potluck.coordinator.sessions.session import Session
from potluck.coordinator.swarm.changes import Changes
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.swarm.tally import Interruption, Remedy, TokenKind
from potluck.coordinator.text.tokenizer import Tokenizer
from potluck.errors import RouteLost, Unavailable

log = logging.getLogger(__name__)

_FAILURES = 5
"""The failures of nodes to run a step that an answer survives between two tokens. Nodes may leave as they like."""
_PATIENCE_S = 60.0
"""Seconds that an interrupted answer waits for the lost layers to be served again."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Makes answers. swarm: its nodes are named in answers, and its tally counts tokens.

    most_rows: the positions that a step may carry. guesser: a small model that guesses, if there is one.
    """

    tokenizer: Tokenizer
    swarm: Swarm
    sessions: SessionManager
    changes: Changes
    most_rows: int
    guesser: GuesserModel | None = None

    async def answer(self, job: Job) -> AsyncGenerator[Delta, None]:
        """The answer piece by piece. Closing this generator ends its session.

        Raises Unavailable when the swarm cannot serve the request, or lost it for good.
        """
        writer, run = Writer(self.tokenizer, job, self.swarm.tally), _Run(self, job)
        try:
            asks = [(token,) for token in job.prompt[1:]] if job.echo else []
            async with under_way(_next_rows(run, writer, asks)) as read:
                if job.progress:
                    async with aclosing(run.reading.during(read)) as told:
                        async for progress in told:
                            yield Delta(generated=0, progress=progress)
                *scored, candidates = await read
            if job.echo:
                yield Delta(tokens=score_prompt(job, scored), generated=0)
            if not job.max_tokens:
                yield Delta(finish="length", generated=0, cached=run.cached, session=run.number, nodes=run.nodes)
                return
            delta = writer.write(candidates)
            delta.cached, delta.session = run.cached, run.number
            while delta.finish is None:
                yield delta
                run.tokens.append(writer.last)
                [candidates] = await _next_rows(run, writer)
                delta = writer.write(candidates)
            delta.nodes = run.nodes
            yield delta
        finally:
            run.end()


async def _next_rows(run: _Run, writer: Writer, asks: Sequence[tuple[int, ...]] = ()) -> list[Candidates]:
    """Candidates for rows of the prompt, and last those for the next token, of which the writer can use one."""
    *scored, candidates = await run.advance([*asks, writer.ids_needed()], writer.top)
    if not writer.can_use(candidates):
        candidates = await run.ask_again(writer.ids_allowed(), writer.top)
    return [*scored, candidates]


def _now() -> float:
    """The loop's clock in seconds."""
    return asyncio.get_running_loop().time()


class _Run:
    """The session behind an answer. When stages of its route are lost, others take them over.

    cached: how many of the prompt's tokens the nodes held when it began. reading: that of the prompt.
    """

    def __init__(self, generation: Generation, job: Job) -> None:
        self.tokens = list(job.prompt)
        self.cached = 0
        self.reading = Reading(len(job.prompt))
        self._swarm = generation.swarm
        self._sessions = generation.sessions
        self._changes = generation.changes
        self._most_rows = generation.most_rows
        # The last token is sampled but never fed, so it needs no position.
        self._positions = len(job.prompt) + max(0, job.max_tokens - 1)
        self._claim = job.claim
        self._session: Session | None = None
        self._done = 0
        self._charged = 0
        self._feeding = False
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

    async def advance(self, asks: list[tuple[int, ...]], top: int) -> list[Candidates]:
        """Feed the tokens that were not fed yet. Returns candidates for each of the last `len(asks)` tokens."""
        failures = 0
        while failures < _FAILURES:
            try:
                session = self._session
                if session is None or not session.is_whole:
                    # A parked session's rows are not there to be scored.
                    session = await self._whole_session(self.tokens if len(asks) == 1 else [])
                self._begin()
                self._feeding = True
                if len(self.tokens) - self._done <= self._most_rows:
                    rows = await self._step(session, self._done, asks, top)
                else:
                    rows = await self._feed(session, asks, top)
            except RouteLost as error:
                log.debug("%s", error)
                self._interruption.begin(_now())
                if error.node is not None:
                    failures += 1
                    self._avoid.add(error.node)
            else:
                self._feeding = False
                self._done = len(self.tokens)
                self._interruption.end(_now())
                return rows
        raise Unavailable(f"The answer lost its route {_FAILURES} times.")

    async def ask_again(self, ids: tuple[int, ...], top: int) -> Candidates:
        """Other candidates for the latest token, which is fed once more after the nodes have forgotten it."""
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
                    self.end()
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
        session = await self._sessions.open(self._positions, tokens, self._avoid, claim=self._claim, urgent=self._began)
        self._session, self._done = session, session.held
        if self._began:
            self.reading.begin(session.held, _now())
        else:
            self._charged = session.held
        if session.is_whole:
            self._note_nodes(session)
        self._interruption.remedy = Remedy.REPLAYED
        return session

    def _begin(self) -> None:
        """Note, before anything is fed, how much of the prompt the nodes hold."""
        if self._began:
            return
        self._began = True
        self.cached = self._charged = self._done
        self.reading.begin(self._done, _now())
        tokens = self._swarm.tally.tokens
        tokens[TokenKind.CACHED] += self._done
        tokens[TokenKind.PROMPT] += len(self.tokens) - self._done

    async def _mend(self, session: Session) -> bool:
        """Mend the session. Returns whether it can continue: it is whole, or its node waits for an heir."""
        if session.is_whole:
            return True
        self._interruption.begin(_now())
        self._feeding = True
        held = await session.mend(self.tokens[: self._done], self._avoid)
        if held is not None:
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

    def end(self) -> None:
        """End the session. It is parked only between steps, because nodes may hold different lengths while one is under
        way.
        """
        if self._session is None:
            return
        # What the nodes held is free, and what they lost is not charged again.
        computed = max(0, self._done - self._charged)
        self._charged += computed
        if self._feeding:
            self._session.close(computed)
        else:
            self._session.park(self.tokens[: self._done], computed)
        self._session, self._feeding = None, False
