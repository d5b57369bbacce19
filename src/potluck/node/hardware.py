"""The cores and the memory of this machine, and how its nodes share the cores."""

from __future__ import annotations

import getpass
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import psutil

try:
    import fcntl
except ImportError:  # Windows has no flock: there, nodes of one machine do not share
    fcntl = None  # type: ignore[assignment]

_PROBE_BYTES = 64 << 20
"""More bytes than caches can hold."""
_PROBES = 3

_SHORTEST_NAP_S, _LONGEST_NAP_S = 0.00005, 0.005
_LOOKS = 16
"""How often to look for a free core before checking whether the holder of one is stopped."""


def usable_cores() -> list[int]:
    """The CPUs that this process may use, by the system's numbers: one for each core, because hyper-threads only
    disturb.
    """
    if not hasattr(os, "sched_getaffinity"):
        return list(range(psutil.cpu_count(logical=False) or os.cpu_count() or 1))
    allowed = sorted(os.sched_getaffinity(0))
    return sorted({min(_siblings(cpu).intersection(allowed), default=cpu) for cpu in allowed})


def _siblings(cpu: int) -> set[int]:
    """The CPU and its hyper-threads, from Linux's list such as "0,4" or "0-1"."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    if not path.exists():
        return {cpu}
    ranges = [[int(end) for end in part.split("-")] for part in path.read_text().split(",")]
    return {one for ends in ranges for one in range(ends[0], ends[-1] + 1)}


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
        self.allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        """The CPUs of that part, hyper-threads included; None means all."""
        self._cores = _padded(usable, threads)
        self._files = {} if fcntl is None else _open_locks(folder or default_folder(), self._cores)

    @contextmanager
    def share(self, *, wait: bool = True) -> Iterator[tuple[int, ...]]:
        """Hold cores for one computation, and give the numbers of these CPUs.

        If all are taken, wait until at least one is free; without `wait`, give none.
        """
        if not self._files:
            yield tuple(self._cores[: self.threads])
            return
        with ExitStack() as held:
            granted = self._take(held, self._cores, self.threads)
            yield tuple(self._wait(held) if wait and not granted else granted)

    def _wait(self, held: ExitStack) -> list[int]:
        """Look again and again, at growing intervals, because a lock cannot be waited for with a time-out."""
        began = time.monotonic()
        while True:
            if orphaned := [core for core in self._cores if _is_stopped(_holder(self._files[core]))]:
                return orphaned[: self.threads]
            looks = 0
            while looks < _LOOKS:
                time.sleep(min(max(_SHORTEST_NAP_S, (time.monotonic() - began) / 8), _LONGEST_NAP_S))
                if granted := self._take(held, self._cores, self.threads):
                    return granted
                looks += 1

    def _take(self, held: ExitStack, cores: list[int], most: int) -> list[int]:
        """Lock the cores that are free, up to `most` of them."""
        granted: list[int] = []
        for core in cores:
            if len(granted) < most and _lock(self._files[core]):
                held.callback(_unlock, self._files[core])
                granted.append(core)
        return granted


def _padded(cores: list[int], threads: int) -> list[int]:
    """Add numbers that no CPU has for an owner who wants more threads than there are cores."""
    return [*cores, *range(1 << 16, (1 << 16) + threads - len(cores))]


def default_folder() -> Path:
    """The folder in which the nodes of this machine and user find each other."""
    return Path(tempfile.gettempdir()) / f"potluck-cores-{getpass.getuser()}"


def _open_locks(folder: Path, cores: list[int]) -> dict[int, IO[bytes]]:
    folder.mkdir(mode=0o700, exist_ok=True)
    return {core: os.fdopen(os.open(folder / f"core-{core}", os.O_RDWR | os.O_CREAT, 0o600), "r+b") for core in cores}


def _lock(file: IO[bytes]) -> bool:
    """Take the lock if it is free, and leave our pid in the file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    os.pwrite(file.fileno(), b"%-10d" % os.getpid(), 0)
    return True


def _holder(file: IO[bytes]) -> int:
    """The pid of the process that took the lock last; 0 in the moment before it has written it."""
    return int(os.pread(file.fileno(), 10, 0) or b"0")


def _is_stopped(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False  # its lock went with it


def _unlock(file: IO[bytes]) -> None:
    fcntl.flock(file, fcntl.LOCK_UN)
