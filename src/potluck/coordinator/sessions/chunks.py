"""Cuts long inputs into steps of bounded size, several of which are under way at once, so that all stages work."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any, TypeVar

from potluck.types import MAX_STEP_ROWS

T = TypeVar("T")

_CHUNK_BYTES = 4 << 20
"""The bytes of hidden rows in one frame. A long prompt travels in several, so that its stages work at the same time."""


def step_rows(row_bytes: int) -> int:
    """The positions that a step may carry, given the bytes of one hidden row."""
    return max(1, min(MAX_STEP_ROWS, _CHUNK_BYTES // row_bytes))


async def in_order(calls: Iterable[Coroutine[Any, Any, T]], ahead: int) -> AsyncGenerator[T, None]:
    """The results in the order of the calls. Besides the awaited one, `ahead` more run at the same time."""
    running: deque[asyncio.Task[T]] = deque()
    try:
        for call in calls:
            running.append(asyncio.create_task(call))
            if len(running) > ahead:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
