"""Bars for what takes its time: where there is a terminal they move, elsewhere a node tells each tenth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress

from potluck.terminal import console, say


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over bytes, where there is a terminal."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total or None)
        yield lambda nbytes: progress.advance(task, nbytes)


def size(model: Path) -> int:
    files = [file for file in (model.iterdir() if model.is_dir() else [model]) if file.is_file()]
    weights = {file.suffix for file in files} & {".gguf", ".safetensors"} or {".bin"}
    return sum(file.stat().st_size for file in files if file.suffix in weights)


class ConsoleReporter:
    """What a node tells its owner: sentences, and a bar while it fetches (a line each tenth where no terminal is)."""

    def __init__(self) -> None:
        self._progress = Progress(console=console, transient=True)
        self._task = self._progress.add_task("Fetching", total=1.0, visible=False)
        self._tenth = 0

    def __enter__(self) -> ConsoleReporter:
        if console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if console.is_terminal:
            self._progress.stop()

    def say(self, text: str) -> None:
        say(text)

    def progress(self, fraction: float) -> None:
        if console.is_terminal:
            self._progress.update(self._task, completed=fraction, visible=fraction < 1)
        elif int(fraction * 10) > self._tenth:
            say(f"Fetched {fraction:.0%}.")
        self._tenth = int(fraction * 10)
