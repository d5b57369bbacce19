"""The cores and the memory of this machine, and how its nodes share the cores."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import psutil

from potluck.platform import allowed_cpus, is_stopped, try_lock, unlock, usable_cores, user_folder
from potluck.wire.private import open_private

_PROBE_BYTES = 64 << 20
"""More bytes than caches can hold."""
_PROBES = 3

_SHORTEST_NAP_S, _LONGEST_NAP_S = 0.00005, 0.005
_LOOKS = 16
"""How often to look for a free core before checking whether the holder of one is stopped."""


def physical_cores() -> int:
    """The number of cores that this process may use, without hyper-threads."""
    return len(usable_cores())


def free_memory() -> int:
    """The bytes of memory that programs can use now without swapping."""
    return int(psutil.virtual_memory().available)


def read_rate(threads: int) -> float:
    """The bytes a second that this number of threads can read from memory, which limits decoding."""
    parts = [np.ones(_PROBE_BYTES // 4 // threads, np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = min(_timed(pool, parts) for _ in range(_PROBES))
    return sum(part.nbytes for part in parts) / seconds


def _timed(pool: ThreadPoolExecutor, parts: list[npt.NDArray[np.float32]]) -> float:
    begin = time.perf_counter()
    list(pool.map(np.sum, parts))
    return time.perf_counter() - begin


class Cores:
    """Distributes this machine's cores among all its nodes with one lock file for each core.

    The engine's threads meet at a spinning barrier after every operation, so two nodes that compute at once with as
    many threads as there are cores slow each other down by a factor of three or more. A node therefore takes cores that
    no other node holds, up to `threads`, and computes with one thread on each. A process that was stopped while it held
    some cannot give them back; they are used as if they were free.
    """

    def __init__(self, threads: int, folder: Path | None = None) -> None:
        self.threads = threads
        """The most cores to take from now on."""
        usable = usable_cores()
        self.count = len(usable)
        """The number of cores of this machine, or of the part of it that we may use."""
        self.allowed = allowed_cpus()
        """The CPUs of that part, hyper-threads included; None means all."""
        self._cores = _padded(usable, threads)
        self._files = _open_locks(folder or default_folder(), self._cores)

    @contextmanager
    def share(self, *, wait: bool = True) -> Iterator[tuple[int, ...]]:
        """Hold cores for one computation, and give the numbers of these CPUs.

        If all are taken, wait until at least one is free; without `wait`, give none.
        """
        with ExitStack() as held:
            granted = self._take(held, self._cores, self.threads)
            yield tuple(self._wait(held) if wait and not granted else granted)

    def _wait(self, held: ExitStack) -> list[int]:
        """Look again and again, at growing intervals, because a lock cannot be waited for with a time-out."""
        began = time.perf_counter()
        while True:
            if orphaned := [core for core in self._cores if is_stopped(_holder(self._files[core]))]:
                return orphaned[: self.threads]
            looks = 0
            while looks < _LOOKS:
                time.sleep(min(max(_SHORTEST_NAP_S, (time.perf_counter() - began) / 8), _LONGEST_NAP_S))
                if granted := self._take(held, self._cores, self.threads):
                    return granted
                looks += 1

    def _take(self, held: ExitStack, cores: list[int], most: int) -> list[int]:
        """Lock the cores that are free, up to `most` of them."""
        granted: list[int] = []
        for core in cores:
            if len(granted) < most and _lock(self._files[core]):
                held.callback(unlock, self._files[core])
                granted.append(core)
        return granted


def _padded(cores: list[int], threads: int) -> list[int]:
    """Add numbers that no CPU has for an owner who wants more threads than there are cores."""
    return [*cores, *range(1 << 16, (1 << 16) + threads - len(cores))]


def default_folder() -> Path:
    """The folder in which the nodes of this machine and user find each other."""
    return user_folder("potluck-cores")


def _open_locks(folder: Path, cores: list[int]) -> dict[int, IO[bytes]]:
    folder.mkdir(mode=0o700, exist_ok=True)
    return {core: open_private(folder / f"core-{core}", "r+b") for core in cores}


def _lock(file: IO[bytes]) -> bool:
    """Take the lock if it is free, and leave our pid in the file."""
    if not try_lock(file):
        return False
    file.seek(0)
    file.write(b"%-10d" % os.getpid())
    return True


def _holder(file: IO[bytes]) -> int:
    """The pid of the process that took the lock last; 0 in the moment before it has written it."""
    file.seek(0)
    return int(file.read(10) or b"0")
