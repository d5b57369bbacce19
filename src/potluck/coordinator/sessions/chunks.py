"""Long inputs run in steps of bounded size, several under way at once, so that all stages of a route work."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any, TypeVar

from potluck.types import MAX_STEP_ROWS

T = TypeVar("T")

_CHUNK_BYTES = 4 << 20
"""Of hidden rows in one frame: a long prompt travels in several, so that its stages work at the same time."""


def step_rows(row_bytes: int) -> int:
    """Positions a step may carry, from the bytes of one hidden row."""
    return max(1, min(MAX_STEP_ROWS, _CHUNK_BYTES // row_bytes))


async def in_order(calls: Iterable[Coroutine[Any, Any, T]], ahead: int) -> AsyncGenerator[T, None]:
    """The results in the order of the calls, of which `ahead` more than the awaited one run at the same time."""
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
