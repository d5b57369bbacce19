"""Progress bars on the terminal, for work that takes a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.progress import Progress

from potluck.commands.terminal import QUIET_S, console, say


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar that counts bytes."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total or None)
        yield lambda nbytes: progress.advance(task, nbytes)


def checking(nbytes: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show the bar for reading a whole model of this size, which is done once for each state of its files."""
    return bar("Checking the model", nbytes)


class Bar:
    """One bar that shows one task after another, each of known or unknown length."""

    def __init__(self) -> None:
        self._progress = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._known = self._progress.add_task("", total=1.0, visible=False)
        self._unknown = self._progress.add_task("", total=None, visible=False)
        self._what = ""

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, what: str, fraction: float | None) -> None:
        """Show how far a task is. fraction: 1.0 ends it; None means that its length is unknown."""
        if fresh := what != self._what:
            self._what = what
            self._progress.reset(self._known, description=what)  # a new task has a speed of its own
        under_way = fraction is not None and fraction < 1
        self._progress.update(self._unknown, description=what, visible=fraction is None)
        self._progress.update(self._known, completed=fraction or 0.0, visible=under_way, refresh=fresh)


class ConsoleReporter:
    """Shows a node's owner its sentences and a progress bar.

    Without a terminal it prints a line for each tenth of a task that takes longer than a second.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bar = Bar()
        self._what = ""
        self._tenth = 0
        self._told_s = 0.0

    def __enter__(self) -> ConsoleReporter:
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()

    def say(self, text: str) -> None:
        say(text)

    def progress(self, what: str, fraction: float | None) -> None:
        self._bar.show(what, fraction)
        if not console.is_terminal and fraction is not None:
            self._tell(what, fraction)

    def _tell(self, what: str, fraction: float) -> None:
        now, tenth = self._clock(), int(fraction * 10)
        if what != self._what:
            self._what, self._tenth, self._told_s = what, 0, now
        elif self._tenth < tenth < 10 and now - self._told_s >= QUIET_S:
            say(f"{what}: {fraction:.0%}.")
            self._tenth, self._told_s = tenth, now
