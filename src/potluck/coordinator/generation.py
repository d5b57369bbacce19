"""One request's whole life: prefill, the token loop, replay when a node is lost, and the end of its session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np

from potluck.coordinator.claim import EVERYONE, Claim
from potluck.coordinator.constraint import Grammar
from potluck.coordinator.gateway import Gateway
from potluck.coordinator.progress import Progress, Reading, under_way
from potluck.coordinator.sampling import Candidates, Sampler, SamplingParams
from potluck.coordinator.session import Session, in_order, step_rows
from potluck.coordinator.stream import TextStream
from potluck.coordinator.tally import Interruption, Remedy, Tally, TokenKind
from potluck.coordinator.tokenizer import Tokenizer
from potluck.errors import RouteLost, Unavailable
from potluck.types import MAX_CANDIDATES

log = logging.getLogger(__name__)

_LEAST_LOGPROB = -9999.0
"""OpenAI's word for "impossible": JSON has no infinity."""

_FAILURES = 5
"""Of nodes that could not run a step, that an answer survives between two tokens. Nodes may leave as they like."""
_PATIENCE_S = 60.0
"""How long an interrupted answer waits for the lost layers to be served again."""
_FEW = 256
"""Allowed tokens that are asked for by name at once. Where a grammar allows more, the likeliest tokens mostly hold some
of them, and the row is asked for again where they do not."""


@dataclass(frozen=True)
class Job:
    """What to generate. `logprobs`: how many top alternatives to report, None for no log-probabilities.

    echo: score the prompt's own tokens as well (OpenAI's `echo` with `logprobs`).
    ignore_eos: go on after the model's end of text, as benchmarks want it.
    min_tokens: neither the model nor a stop string can end the answer before it has so many.
    grammar: what the answer must look like. It says where the answer may end, so that min_tokens must be 0.
    progress: tell how far the prompt has been read, too.
    """

    prompt: list[int]
    params: SamplingParams
    max_tokens: int
    stops: tuple[str, ...] = ()
    logprobs: int | None = None
    echo: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    claim: Claim = EVERYONE
    grammar: Grammar | None = None
    progress: bool = False


@dataclass(frozen=True)
class Scored:
    """A token with its log-probability and the most likely alternatives, best first."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Delta:
    """What one step adds to an answer. finish: "stop" or "length" with the last one.

    generated: 1 where the step sampled a token, shown or not; 0 where it only scored the prompt.
    progress: before the first token, if it was asked for: how far the prompt has been read. Then there is nothing else.
    cached: with the first that was sampled, how many tokens of the prompt the nodes held already.
    session: with the same one, the number by which `/trace` knows its session.
    nodes: with the last one, who computed the answer, each with its layers.
    """

    text: str = ""
    tokens: list[Scored] = field(default_factory=list)
    finish: str | None = None
    generated: int = 1
    progress: Progress | None = None
    cached: int = 0
    session: int | None = None
    nodes: tuple[str, ...] = ()


async def generate(gateway: Gateway, tokenizer: Tokenizer, job: Job) -> AsyncGenerator[Delta, None]:
    """The answer piece by piece. Closing this generator ends its session.

    Raises Unavailable when the swarm cannot serve the request, or lost it for good.
    """
    writer, run = _Writer(tokenizer, job, gateway.swarm.tally), _Run(gateway, job)
    try:
        asks = [(token,) for token in job.prompt[1:]] if job.echo else []
        async with under_way(_next_rows(run, writer, asks)) as read:
            if job.progress:
                async with aclosing(run.reading.during(read)) as told:
                    async for progress in told:
                        yield Delta(generated=0, progress=progress)
            *scored, candidates = await read
        if job.echo:
            yield Delta(tokens=_score_prompt(job, scored), generated=0)
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


async def _next_rows(run: _Run, writer: _Writer, asks: Sequence[tuple[int, ...]] = ()) -> list[Candidates]:
    """Candidates for rows of the prompt, and last those for the next token, of which the writer can use one."""
    *scored, candidates = await run.advance([*asks, writer.ids_needed()], writer.top)
    if not writer.can_use(candidates):
        candidates = await run.ask_again(writer.ids_allowed(), writer.top)
    return [*scored, candidates]


class _LateStream(TextStream):
    """A text stream in which stop strings count only when so many tokens have come."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], least: int) -> None:
        super().__init__(tokenizer, stops)
        self._early = least

    def push(self, token: int) -> str:
        self._early -= 1
        return super().push(token)

    def _first_stop(self, text: str) -> tuple[int, str] | None:
        return None if self._early > 0 else super()._first_stop(text)


class _Writer:
    """Makes the answer, a token a time, of the candidates that the model gives for it. last: the latest token."""

    def __init__(self, tokenizer: Tokenizer, job: Job, tally: Tally) -> None:
        self.last = -1
        self._tally = tally
        self._job = job
        self._sampler = Sampler(job.params, job.prompt)
        self._stream = _LateStream(tokenizer, job.stops, job.min_tokens)
        self._end_ids = tokenizer.stop_ids
        self._written = 0
        self._constraint = job.grammar.start() if job.grammar else None
        self._allowed = self._constraint.allowed() if self._constraint else None

    @property
    def _forbidden(self) -> frozenset[int]:
        return self._end_ids if self._written < self._job.min_tokens else frozenset()

    @property
    def top(self) -> int:
        """How many candidates the next token takes."""
        if self._allowed is not None:
            return MAX_CANDIDATES
        return self._job.params.candidates_needed(self._job.logprobs or 0, len(self._forbidden))

    def ids_needed(self) -> tuple[int, ...]:
        """Those that must be among them, however unlikely they are."""
        lifted = self._sampler.ids_needed()
        if self._allowed is not None and len(self._allowed) <= _FEW:
            return tuple(sorted({*lifted, *self._allowed.tolist()}))
        return tuple(lifted)

    def can_use(self, candidates: Candidates) -> bool:
        """Whether one of them may come next."""
        return self._allowed is None or len(candidates.only(self._allowed)) > 0

    def ids_allowed(self) -> tuple[int, ...]:
        """All that may come next, where not all may."""
        return () if self._allowed is None else tuple(self._allowed.tolist())

    def write(self, candidates: Candidates) -> Delta:
        """The next token. After one with `finish` there is none."""
        usable = candidates if self._allowed is None else candidates.only(self._allowed)
        token = self.last = self._sampler.sample(usable, self._forbidden)
        self._tally.tokens[TokenKind.GENERATED] += 1
        tokens = [_scored(token, candidates, self._job.logprobs)]
        if token in self._end_ids and not self._job.ignore_eos:
            return Delta(self._stream.finish(), tokens, finish="stop")
        self._sampler.accept(token)
        self._written += 1
        text = self._stream.push(token)
        if self._stream.stopped is not None:
            return Delta(text, tokens, finish="stop")
        if self._is_complete_with(token):
            return Delta(text + self._stream.finish(), tokens, finish="stop")
        if self._written == self._job.max_tokens:
            return Delta(text + self._stream.finish(), tokens, finish="length")
        return Delta(text, tokens)

    def _is_complete_with(self, token: int) -> bool:
        """Whether the grammar lets nothing follow this token."""
        if self._constraint is None:
            return False
        self._constraint.accept(token)
        if self._constraint.is_complete:
            return True
        self._allowed = self._constraint.allowed()
        return False


def _score_prompt(job: Job, rows: list[Candidates]) -> list[Scored]:
    """Log-probability of each token of the prompt given those before it; of the first there is none."""
    pairs = zip(job.prompt[1:], rows, strict=True)
    return [Scored(job.prompt[0], None), *(_scored(token, row, job.logprobs) for token, row in pairs)]


def _scored(token: int, candidates: Candidates, logprobs: int | None) -> Scored:
    if logprobs is None:
        return Scored(token, None)
    top = tuple((other, max(logprob, _LEAST_LOGPROB)) for other, logprob in candidates.best(logprobs))
    return Scored(token, max(candidates.logprob(token), _LEAST_LOGPROB), top)


def _now() -> float:
    """Seconds of the loop's clock."""
    return asyncio.get_running_loop().time()


class _Run:
    """The session behind an answer. When stages of its route are lost, others take them over.

    cached: how many of the prompt's tokens the nodes held when it began. reading: of the prompt.
    """

    def __init__(self, gateway: Gateway, job: Job) -> None:
        self.tokens = list(job.prompt)
        self.cached = 0
        self.reading = Reading(len(job.prompt))
        self._gateway = gateway
        # The last token is sampled but never fed, so it needs no position.
        self._positions = len(job.prompt) + max(0, job.max_tokens - 1)
        self._claim = job.claim
        self._session: Session | None = None
        self._done = 0
        self._charged = 0
        self._feeding = False
        self._began = False
        self._avoid: set[str] = set()
        self._interruption = Interruption(gateway.swarm.tally)
        self._nodes: dict[str, None] = {}

    @property
    def nodes(self) -> tuple[str, ...]:
        """Who has computed it, each with its layers, in the order in which they came in."""
        return tuple(self._nodes)

    def _note_nodes(self, session: Session) -> None:
        for stage in session.route:
            node = self._gateway.swarm.nodes.get(stage.node)
            if node is not None:
                self._nodes[f"{node.name} {stage.span}"] = None

    @property
    def number(self) -> int | None:
        """Of its session."""
        return None if self._session is None else self._session.number

    async def advance(self, asks: list[tuple[int, ...]], top: int) -> list[Candidates]:
        """Feed the tokens that were not fed yet; candidates for each of the last `len(asks)` tokens."""
        failures = 0
        while failures < _FAILURES:
            try:
                # A parked session's rows are not there to be scored.
                session = await self._whole_session(self.tokens if len(asks) == 1 else [])
                self._feeding = True
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
        """Other candidates for the latest token, which is fed once more: the nodes forget it first."""
        self._done -= 1
        [candidates] = await self.advance([ids], top)
        return candidates

    async def _whole_session(self, tokens: list[int]) -> Session:
        """One whose stages are all there. An answer that has begun waits a while for layers that have just been lost.

        Lost stages are mended where somebody can serve just these layers; else the answer moves to a new session.
        """
        deadline = _now() + (_PATIENCE_S if self._began else 0.0)
        while True:
            if self._session is not None:
                if await self._mend(self._session):
                    return self._session
                if not self._gateway.swarm.missing():
                    self.end()
            if self._session is None:
                try:
                    return await self._open(tokens)
                except Unavailable:
                    if not await self._gateway.sessions.changed_before(deadline):
                        raise
            elif not await self._gateway.sessions.changed_before(deadline):
                missing = ", ".join(map(str, self._gateway.swarm.missing()))
                raise Unavailable(f"The answer ends here: no node has come to serve layers {missing}.")

    async def _open(self, tokens: list[int]) -> Session:
        session = await self._gateway.sessions.open(
            self._positions, tokens, self._avoid, claim=self._claim, urgent=self._began
        )
        self._session, self._done = session, session.held
        self._note_nodes(session)
        self.reading.begin(session.held, _now())
        if not self._began:
            self._began, self.cached, self._charged = True, session.held, session.held
            self._count_prompt(session.held)
        self._interruption.remedy = Remedy.REPLAYED
        return session

    def _count_prompt(self, cached: int) -> None:
        tokens = self._gateway.swarm.tally.tokens
        tokens[TokenKind.CACHED] += cached
        tokens[TokenKind.PROMPT] += len(self.tokens) - cached

    async def _mend(self, session: Session) -> bool:
        """Whether the session can go on: it was whole, or is again, or has a node that waits for an heir."""
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
        """In steps of bounded size, several under way at once so that all stages of the route work."""
        limit = step_rows(self._gateway.steps.row_bytes)
        if len(self.tokens) - self._done <= limit:
            return await self._step(session, self._done, len(self.tokens), asks, top)
        starts = range(self._done, len(self.tokens), limit)
        steps = (self._step(session, start, min(start + limit, len(self.tokens)), asks, top) for start in starts)
        rows: list[Candidates] = []
        async with aclosing(in_order(steps, ahead=len(session.route) + 1)) as done:
            async for candidates in done:
                rows += candidates
                if not rows:  # if a stage is lost now, this much need not be fed again
                    self._done += limit
        return rows

    async def _step(
        self, session: Session, start: int, end: int, asks: list[tuple[int, ...]], top: int
    ) -> list[Candidates]:
        """Feed `tokens[start:end]`; of the asks, which belong to the last tokens of all, those for these tokens."""
        unasked = len(self.tokens) - len(asks)
        own = tuple(asks[max(0, start - unasked) : max(0, end - unasked)])
        rows = await session.step(start, np.array(self.tokens[start:end], np.int32), top, own)
        if start < self.reading.total:
            self.reading.reach(end, _now())
        return rows

    def end(self) -> None:
        """Of the session. It is parked only between steps: with one under way, nodes may hold different lengths."""
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
