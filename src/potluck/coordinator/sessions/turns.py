"""Decides who may do something first: a few at a time, those of the lowest rank before the others."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Turns:
    """Gives `most` turns at a time for each key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[str, int] = {}
        self._waiting: dict[str, list[tuple[int, int, asyncio.Future[None]]]] = {}
        self._numbers = itertools.count()

    @asynccontextmanager
    async def turn(self, key: str, rank: int) -> AsyncGenerator[None, None]:
        """Wait for a turn. Of those that wait for one of this key, the lowest rank comes first."""
        if self._taken.get(key, 0) < self._most:
            self._taken[key] = self._taken.get(key, 0) + 1
        else:
            await self._wait(key, rank)
        try:
            yield
        finally:
            self._give(key)

    async def _wait(self, key: str, rank: int) -> None:
        """Wait until somebody's turn is passed on."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting.setdefault(key, []), (rank, next(self._numbers), future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # it was given in the same moment
                self._give(key)
            raise

    def _give(self, key: str) -> None:
        waiting = self._waiting.get(key, [])
        while waiting:
            _, _, future = heapq.heappop(waiting)
            if not future.done():
                future.set_result(None)
                return
        self._waiting.pop(key, None)
        self._taken[key] -= 1
        if not self._taken[key]:
            del self._taken[key]
