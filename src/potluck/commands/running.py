"""Commands that run until they are told to end: their event loop, their signals and their log."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from potluck.commands.terminal import say


def run(
    main: Callable[[], Coroutine[Any, Any, None]],
    on_signal: Callable[[], object] | None = None,
    others: Mapping[signal.Signals, Callable[[], object]] = MappingProxyType({}),
) -> None:
    """Until it ends, or Ctrl-C or SIGTERM cancel it, or whatever `on_signal` makes of them. others: more signals.

    The loop's own handlers, because Python's would raise a second Ctrl-C wherever the program just is.
    """

    async def cancellable() -> None:
        task = asyncio.current_task()
        assert task is not None
        with suppress(NotImplementedError):  # Windows
            end = on_signal or task.cancel
            for sign, act in {signal.SIGINT: end, signal.SIGTERM: end, **others}.items():
                asyncio.get_running_loop().add_signal_handler(sign, act)
        await main()

    with suppress(KeyboardInterrupt, asyncio.CancelledError), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(cancellable())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: it halves what a frame costs."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def log_to_console() -> None:
    """Potluck's own log lines as sentences; of others only warnings."""
    handler = _ConsoleHandler()
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s")
    logging.getLogger("potluck").setLevel(logging.INFO)


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))
