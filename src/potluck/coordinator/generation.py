"""One request's whole life: prefill, the token loop, replay when a node is lost, and the end of its session."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import numpy as np

from potluck.coordinator.gateway import Gateway, Session
from potluck.coordinator.sampling import Candidates, Sampler, SamplingParams
from potluck.coordinator.stream import TextStream
from potluck.coordinator.tokenizer import Tokenizer
from potluck.errors import RouteLost, Unavailable
from potluck.types import MAX_STEP_ROWS

log = logging.getLogger(__name__)

_CHUNK_BYTES = 4 << 20
"""Of hidden rows in one frame: a long prompt travels in several, so that its stages work at the same time."""

_SCORED_ROWS = 64
"""Rows a step when every row's logits are wanted: they are V values each."""

_LEAST_LOGPROB = -9999.0
"""OpenAI's word for "impossible": JSON has no infinity."""

_REPLAYS = 5
_REPLAY_S = 60.0
"""How long an interrupted answer waits for the lost layers to be served again."""


@dataclass(frozen=True)
class Job:
    """What to generate. `logprobs`: how many top alternatives to report, None for no log-probabilities.

    echo: score the prompt's own tokens as well (OpenAI's `echo` with `logprobs`).
    ignore_eos: go on after the model's end of text, as benchmarks want it.
    """

    prompt: list[int]
    params: SamplingParams
    max_tokens: int
    stops: tuple[str, ...] = ()
    logprobs: int | None = None
    echo: bool = False
    ignore_eos: bool = False


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
    """

    text: str = ""
    tokens: list[Scored] = field(default_factory=list)
    finish: str | None = None
    generated: int = 1


async def generate(gateway: Gateway, tokenizer: Tokenizer, job: Job) -> AsyncGenerator[Delta, None]:
    """The answer piece by piece. Closing this generator ends the session on every node.

    Raises Unavailable when the swarm cannot serve the request, or lost it for good.
    """
    sampler, stream = Sampler(job.params, job.prompt), TextStream(tokenizer, job.stops)
    stop_ids: frozenset[int] = frozenset() if job.ignore_eos else tokenizer.stop_ids
    run = _Run(gateway, job)
    try:
        asks = [(token,) for token in job.prompt[1:]] if job.echo else []
        *scored, candidates = await run.advance([*asks, tuple(sampler.ids_needed())])
        if job.echo:
            yield Delta(tokens=_score_prompt(job, scored), generated=0)
        for left in range(job.max_tokens - 1, -1, -1):
            token = sampler.sample(candidates)
            if token in stop_ids:
                yield Delta(stream.finish(), finish="stop")
                return
            sampler.accept(token)
            text, tokens = stream.push(token), [_scored(token, candidates, job.logprobs)]
            if stream.stopped is not None:
                yield Delta(text, tokens, finish="stop")
                return
            if left:
                yield Delta(text, tokens)
                run.tokens.append(token)
                [candidates] = await run.advance([tuple(sampler.ids_needed())])
            else:
                yield Delta(text + stream.finish(), tokens, finish="length")
        if not job.max_tokens:
            yield Delta(finish="length", generated=0)
    finally:
        run.close()


def _score_prompt(job: Job, rows: list[Candidates]) -> list[Scored]:
    """Log-probability of each token of the prompt given those before it; of the first there is none."""
    pairs = zip(job.prompt[1:], rows, strict=True)
    return [Scored(job.prompt[0], None), *(_scored(token, row, job.logprobs) for token, row in pairs)]


def _scored(token: int, candidates: Candidates, logprobs: int | None) -> Scored:
    if logprobs is None:
        return Scored(token, None)
    top = tuple((other, max(logprob, _LEAST_LOGPROB)) for other, logprob in candidates.best(logprobs))
    return Scored(token, max(candidates.logprob(token), _LEAST_LOGPROB), top)


class _Run:
    """The session behind an answer. When its route is lost, `tokens` are replayed on another."""

    def __init__(self, gateway: Gateway, job: Job) -> None:
        self.tokens = list(job.prompt)
        self._gateway = gateway
        self._top = job.params.candidates_needed(job.logprobs or 0)
        # The last token is sampled but never fed, so it needs no position.
        self._positions = len(job.prompt) + max(0, job.max_tokens - 1)
        self._session: Session | None = None
        self._done = 0
        self._began = False
        self._avoid: set[str] = set()

    async def advance(self, asks: list[tuple[int, ...]]) -> list[Candidates]:
        """Feed the tokens that were not fed yet; candidates for each of the last `len(asks)` tokens."""
        for _ in range(_REPLAYS):
            try:
                if self._session is None:
                    self._session, self._done = await self._open(), 0
                rows = await self._feed(self._session, asks)
            except RouteLost as error:
                log.warning("%s Its session is replayed on another route.", error)
                if error.node is not None:
                    self._avoid.add(error.node)
                self.close()
            else:
                self._done = len(self.tokens)
                return rows
        raise Unavailable(f"The answer lost its route {_REPLAYS} times.")

    async def _open(self) -> Session:
        """A session; an answer that has begun waits a while for layers that have just been lost."""
        deadline = asyncio.get_running_loop().time() + (_REPLAY_S if self._began else 0.0)
        while True:
            try:
                session = await self._gateway.open(self._positions, self._avoid)
            except Unavailable:
                if not await self._gateway.changed_before(deadline):
                    raise
            else:
                self._began = True
                return session

    async def _feed(self, session: Session, asks: list[tuple[int, ...]]) -> list[Candidates]:
        """In steps of bounded size, several under way at once so that all stages of the route work."""
        limit = step_rows(self._gateway.row_bytes, len(asks))
        if len(self.tokens) - self._done <= limit:
            return await self._step(session, self._done, len(self.tokens), asks)
        running: deque[asyncio.Task[list[Candidates]]] = deque()
        rows: list[Candidates] = []
        try:
            for start in range(self._done, len(self.tokens), limit):
                end = min(start + limit, len(self.tokens))
                running.append(asyncio.create_task(self._step(session, start, end, asks)))
                if len(running) > len(session.route) + 1:
                    rows += await running.popleft()
            while running:
                rows += await running.popleft()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return rows

    async def _step(self, session: Session, start: int, end: int, asks: list[tuple[int, ...]]) -> list[Candidates]:
        """Feed `tokens[start:end]`; of the asks, which belong to the last tokens of all, those for these tokens."""
        unasked = len(self.tokens) - len(asks)
        own = tuple(asks[max(0, start - unasked) : max(0, end - unasked)])
        return await session.step(start, np.array(self.tokens[start:end], np.int32), self._top, own)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def step_rows(row_bytes: int, asked: int) -> int:
    """Positions a step may carry, from the bytes of one hidden row and the number of rows that want candidates."""
    most = _SCORED_ROWS if asked > 1 else MAX_STEP_ROWS
    return max(1, min(most, _CHUNK_BYTES // row_bytes))
