"""How tests wait: for what comes about, with a bound that only ends a hang; or by a clock that leaps."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any

from potluck.local import HANG_S

_TURN_S = 0.001


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline, "It did not come about."
        time.sleep(0.02)


async def bounded(test: Coroutine[Any, Any, None]) -> None:
    """Ends a hang."""
    async with asyncio.timeout(HANG_S):
        await test


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(bounded(test))


def run_leaping(test: Coroutine[Any, Any, None]) -> None:
    """Run it on a loop whose time passes without being waited for: seconds and minutes can be tested exactly.

    For tests in which everything happens in the loop: what threads and processes do takes no such time.
    """
    with asyncio.Runner(loop_factory=_LeapingLoop) as runner:
        runner.run(bounded(test))


class _Leap(selectors.DefaultSelector):
    """Where it would wait for a timer, it is that time; a turn of a busy loop takes a millisecond."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "Nothing is left to wait for."
        self.now += timeout or _TURN_S
        return super().select(0)


class _LeapingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)

    def time(self) -> float:
        return self._leap.now
