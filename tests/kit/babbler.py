"""A model that babbles: what it says depends on all before it. It makes answers without nodes."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Sequence

import numpy as np

from kit.scripted import Bytes
from potluck.coordinator.generation.begun import Begun
from potluck.coordinator.generation.job import Delta, Job
from potluck.coordinator.generation.writer import Writer
from potluck.coordinator.relay.candidates import Candidates
from potluck.coordinator.swarm.tally import Tally
from potluck.errors import Unavailable

_LIKELY = b" abcdefghijklmnopqrstuvwxyz\xe2\x82\xac"
"""These come more often than others. The last three are one character."""


class Babbler:
    """Makes answers as `Generation` does. jobs: what it was asked for. lasts: how many tokens it makes of each answer
    before it breaks off; None: all.
    """

    def __init__(self, lasts: int | None = None) -> None:
        self.jobs: list[Job] = []
        self.lasts = lasts

    async def answer(self, job: Job) -> AsyncGenerator[Delta, None]:
        self.jobs.append(job)
        writer = Writer(Bytes(), job, Tally())
        begun, tokens = Begun(job, writer), [*job.prompt]
        rows = []
        for token in job.given[: len(begun.deltas)]:
            rows.append(_candidates(tokens))
            tokens.append(token)
        begun.score([*rows, *([] if begun.ended else [_candidates(tokens)])])
        for delta in begun.deltas:
            yield delta
        for made in range(0 if begun.ended else job.max_tokens):
            if made == self.lasts:
                raise Unavailable("The nodes are gone.")
            await asyncio.sleep(0)
            delta = writer.write(_candidates(tokens))
            yield delta
            if delta.finish is not None:
                return
            tokens.append(writer.last)


def _candidates(tokens: Sequence[int]) -> Candidates:
    random = np.random.default_rng(zlib.crc32(bytes(tokens)))
    logits = random.normal(size=256)
    logits[list(_LIKELY)] += 3
    logprobs = (logits - np.log(np.exp(logits).sum())).astype(np.float32)
    return Candidates.checked(np.arange(256, dtype=np.int32), logprobs, 256)
