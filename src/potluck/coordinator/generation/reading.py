"""Tells how far a prompt has been read, for whoever waits for its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """The progress in tokens. cached: those that the nodes held before. processed: these, and those that have passed
    through the whole route since. elapsed_s: since the first of them was sent. loading: the share of the model's layers
    that nodes have loaded, while the prompt waits for them; None otherwise.
    """

    total: int
    cached: int = 0
    processed: int = 0
    elapsed_s: float = 0.0
    loading: float | None = None


class Reading:
    """The reading of one prompt with this many tokens. now: seconds of any clock."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._latest = Progress(total)
        self._since = 0.0
        self._news = asyncio.Event()

    def begin(self, cached: int, now: float) -> None:
        """Begin to read. Call this again if reading begins again."""
        self._since = now
        self._tell(replace(self._latest, cached=cached, processed=cached, loading=None))

    def reach(self, processed: int, now: float) -> None:
        self._tell(replace(self._latest, processed=processed, elapsed_s=now - self._since))

    def load(self, share: float) -> None:
        """Note that the prompt waits for the model's layers, of which nodes have loaded this share."""
        if share != self._latest.loading:
            self._tell(replace(self._latest, loading=share))

    def _tell(self, progress: Progress) -> None:
        self._latest = progress
        self._news.set()

    async def during(self, work: asyncio.Future[Any]) -> AsyncGenerator[Progress, None]:
        """The newest progress each time, until the work is done; first what was held before."""
        work.add_done_callback(lambda _: self._news.set())
        told = self._latest
        while not work.done() or self._news.is_set():
            await self._news.wait()
            self._news.clear()
            if self._latest is not told:
                told = self._latest
                yield told


@asynccontextmanager
async def under_way(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run the work beside what is done in the block, and no longer than the block."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
