"""What this machine has, and how the nodes on it share its cores."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import psutil

try:
    import fcntl
except ImportError:  # Windows has no flock: there, nodes of one machine do not share
    fcntl = None  # type: ignore[assignment]


def physical_cores() -> int:
    """Cores this process may use, without hyper-threads: two threads on one core only disturb each other."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def free_memory() -> int:
    """Bytes that programs can have now without swapping."""
    return int(psutil.virtual_memory().available)


class Cores:
    """Turns on this machine's cores, among all its nodes: one lock file a core.

    The engine's threads meet at a spinning barrier after every operation, so two nodes that compute at once
    with as many threads as there are cores slow each other by a factor of three and more. A node therefore
    takes the cores that no other node holds, up to `threads`, and computes with as many threads.
    """

    def __init__(self, threads: int, folder: Path | None = None) -> None:
        self._threads = threads
        self._files = [] if fcntl is None else _open_locks(folder or _default_folder(), max(threads, physical_cores()))

    @contextmanager
    def share(self) -> Iterator[int]:
        """Hold cores for one computation; gives the number of threads to use, at least 1. Waits when all are taken."""
        if not self._files:
            yield self._threads
            return
        with ExitStack() as held:
            granted = self._take(held, self._files, self._threads)
            if not granted:
                _lock(self._files[0], wait=True)
                held.callback(_unlock, self._files[0])
                granted = 1 + self._take(held, self._files[1:], self._threads - 1)
            yield granted

    def _take(self, held: ExitStack, files: list[IO[bytes]], most: int) -> int:
        """Lock the free ones, up to `most`; returns how many."""
        granted = 0
        for file in files:
            if granted < most and _lock(file, wait=False):
                held.callback(_unlock, file)
                granted += 1
        return granted


def _default_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"potluck-cores-{os.getuid()}"


def _open_locks(folder: Path, count: int) -> list[IO[bytes]]:
    folder.mkdir(mode=0o700, exist_ok=True)
    return [(folder / f"core-{index}").open("ab") for index in range(count)]


def _lock(file: IO[bytes], *, wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlock(file: IO[bytes]) -> None:
    fcntl.flock(file, fcntl.LOCK_UN)
