"""How tests wait for what comes about, with a bound that only ends a hang."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from potluck.local import HANG_S


def eventually(condition: Callable[[], object]) -> None:
    """Wait until it holds, for what other processes and threads bring about."""
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline, "It did not come about."
        time.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until it holds; the runner's time limit bounds the wait."""
    while True:
        if condition():
            return
        await asyncio.sleep(0)
