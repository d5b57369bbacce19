"""The runner of all async tests, which fails them for tasks left running and for errors that only the loop saw."""

from __future__ import annotations

import asyncio
import gc
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from potluck.local import HANG_S

T = TypeVar("T")

_TURN_S = 0.001
_LAST_TURNS = 100
"""So many turns of the loop are left to tasks that the test has cancelled or whose link it has closed."""


def run(test: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns.

    Raises AssertionError when tasks still run at its end, when the loop's exception handler was called, or when nobody
    retrieved the exception of a task; TimeoutError when the coroutine hangs.
    """
    return _run(test, None)


def run_leaping(test: Coroutine[Any, Any, T]) -> T:
    """Like `run`, on a loop whose time passes without being waited for: seconds and minutes can be tested exactly.

    For tests in which everything happens in the loop: what threads and processes do takes no such time.
    """
    return _run(test, _LeapingLoop)


def _run(test: Coroutine[Any, Any, T], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None) -> T:
    problems: list[str] = []
    gc.freeze()  # the collection below looks only at what this test makes, and so takes no time
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: problems.append(_told(context)))
            result = runner.run(_bounded(test))
            problems += runner.run(_left_running())
            gc.collect()  # futures tell of exceptions that nobody retrieved when they are collected
    finally:
        gc.unfreeze()
    assert not problems, "\n".join(problems)
    return result


async def _bounded(test: Coroutine[Any, Any, T]) -> T:
    async with asyncio.timeout(HANG_S):
        return await test


async def _left_running() -> list[str]:
    for _ in range(_LAST_TURNS):
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if not others:
            break
        await asyncio.sleep(0)
    return [f"The test left a task running: {task!r}" for task in others]


def _told(context: dict[str, Any]) -> str:
    return f"The loop saw an error: {context['message']}: {context.get('exception')!r}"


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
