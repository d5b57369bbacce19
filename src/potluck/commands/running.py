"""The event loop, the signals and the log of commands that run until they are told to end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from typing import Any

from potluck.commands.terminal import say
from potluck.platform import ending_signals, handling


def run(main: Callable[[], Coroutine[Any, Any, None]], on_signal: Callable[[], object] | None = None) -> None:
    """Run `main` until it ends. Ctrl-C and SIGTERM cancel it, or call `on_signal` if there is one."""

    async def cancellable() -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.enter_context(handling(dict.fromkeys(ending_signals(), on_signal or task.cancel)))
        await main()

    with (
        suppress(KeyboardInterrupt, asyncio.CancelledError),
        ExitStack() as handlers,  # to the end of the loop, or a second Ctrl-C would come amid its closing
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        runner.run(cancellable())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's factory if it is installed, because it halves the cost of a frame."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def log_to_console() -> None:
    """Print Potluck's own log lines as sentences, and only the warnings of other packages."""
    handler = _ConsoleHandler()
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s")
    logging.getLogger("potluck").setLevel(logging.INFO)
    logging.getLogger("zeroconf").setLevel(logging.CRITICAL)  # it shows tracebacks of what others broadcast


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))
