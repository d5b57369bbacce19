"""Runs blocking work beside the event loop, on a daemon thread, so that Ctrl-C never waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """A daemon thread that runs calls in order. It is always the same thread, because OpenMP keeps a pool for each
    caller.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._serve, name="potluck-worker", daemon=True).start()

    def _serve(self) -> None:
        while True:
            self._calls.get()()

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of `function(*arguments)` on the worker's thread. Raises the exception that it raised."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            try:
                result = function(*arguments)
            except BaseException as error:  # noqa: BLE001 — handed to the awaiting task, whatever it is
                _post(loop, future, future.set_exception, error)
            else:
                _post(loop, future, future.set_result, result)

        self._calls.put(call)
        return await future


def _post(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], settle: Callable[..., None], value: Any
) -> None:
    def deliver() -> None:
        if not future.done():  # cancelled meanwhile
            settle(value)

    if not loop.is_closed():
        loop.call_soon_threadsafe(deliver)
