"""Bars for what takes its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress

from potluck.terminal import console, say

_QUIET_S = 1.0


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over bytes, where there is a terminal."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total or None)
        yield lambda nbytes: progress.advance(task, nbytes)


@contextmanager
def checking(model: Path) -> Iterator[Callable[[int], None]]:
    """The bar of reading a model through, which is done once for each state of its files."""
    from potluck.models.sources import weights_size  # it takes a while

    with bar("Checking the model", weights_size(model)) as advance:
        yield advance


class ConsoleReporter:
    """What a node tells its owner: sentences, and a bar for what takes its time.

    Where no terminal is, a line a tenth, of what takes longer than a second.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._progress = Progress(console=console, transient=True)
        self._known = self._progress.add_task("", total=1.0, visible=False)
        self._unknown = self._progress.add_task("", total=None, visible=False)
        self._what = ""
        self._tenth = 0
        self._told_s = 0.0

    def __enter__(self) -> ConsoleReporter:
        if console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if console.is_terminal:
            self._progress.stop()

    def say(self, text: str) -> None:
        say(text)

    def progress(self, what: str, fraction: float | None) -> None:
        if what != self._what:
            self._what, self._tenth, self._told_s = what, 0, self._clock()
            self._progress.reset(self._known, description=what)
        if console.is_terminal:
            ended = fraction is not None and fraction >= 1
            self._progress.update(self._unknown, description=what, visible=fraction is None)
            self._progress.update(self._known, completed=fraction or 0.0, visible=fraction is not None and not ended)
        elif fraction is not None:
            self._tell(fraction)

    def _tell(self, fraction: float) -> None:
        now, tenth = self._clock(), int(fraction * 10)
        if self._tenth < tenth < 10 and now - self._told_s >= _QUIET_S:
            say(f"{self._what}: {fraction:.0%}.")
            self._tenth, self._told_s = tenth, now
