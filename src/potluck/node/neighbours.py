"""Measures how much of this machine's cores other programs leave free; its owner may be using them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from potluck.node.hardware import default_folder

_SPARE = 0.6
"""The share of a core that must be free before one more thread is used. It exceeds a half, so that the number is
stable."""


def follow(now: int, most: int, before: float, latest: float) -> int:
    """The number of threads to use, given the number in use, the owner's limit, and the free cores of two measurements.

    A change that only one of the two measurements shows is ignored, because the coordinator may have been busy for a
    moment.

    llama.cpp's threads meet after every operation. One thread without a core of its own slows down all others, so a
    machine in use computes faster with fewer threads.
    """
    free = median((before, latest, now))
    if free < now - 0.5:
        return max(1, min(most, int(free + 0.5)))
    return max(1, now, min(most, int(free + 1 - _SPARE)))


_BUSY = ("user", "nice", "system", "irq", "softirq", "steal", "interrupt", "dpc")
"""The names that psutil gives to time that is not idle, on the various systems."""


_NODE, _CHILD = "node", "child"
"""How the marks of nodes begin, and those of processes that compute for one."""


class _Sample(NamedTuple):
    """CPU seconds at one moment: those used since the machine started, and by each node's process since its start."""

    clock: float
    busy: float
    nodes: dict[int, float]


@contextmanager
def registered(name: str, folder: Path | None = None) -> Iterator[None]:
    """While the block runs, other nodes know this process as one of them, and its owner can address it by this name."""
    folder = folder or default_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    mark, orders = folder / f"node-{os.getpid()}", orders_path(os.getpid(), folder)
    orders.unlink(missing_ok=True)  # of a node that was killed
    mark.write_text(name, encoding="utf-8")
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
        orders.unlink(missing_ok=True)


@contextmanager
def computing(pid: int, folder: Path | None = None) -> Iterator[None]:
    """While the block runs, nodes know that this process computes for one of them."""
    mark = (folder or default_folder()) / f"{_CHILD}-{pid}"
    mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def orders_path(pid: int, folder: Path | None = None) -> Path:
    """The file of what the owner orders the node of this process."""
    return (folder or default_folder()) / f"orders-{pid}"


class Neighbours:
    """Measures CPU time between two calls, for the CPUs in `allowed` (None means all), without that of the Potluck
    nodes here.
    """

    def __init__(self, cores: int, allowed: Sequence[int] | None = None, folder: Path | None = None) -> None:
        self._cores = cores
        self._allowed = allowed
        self._folder = folder or default_folder()
        self._before = self._now()
        self._free = float(cores)

    def free_cores(self) -> float:
        """The cores that programs other than nodes have left free since the last call."""
        before, now = self._before, self._now()
        if now.clock <= before.clock:  # a coarse clock has not moved on: nothing can be said yet
            return self._free
        self._before = now
        seconds, busy = self._before.clock - before.clock, self._before.busy - before.busy
        # Of a node that came or went meanwhile we know too little: it counts as another program for once.
        ours = sum(used - before.nodes[pid] for pid, used in self._before.nodes.items() if pid in before.nodes)
        self._free = self._cores - max(0.0, busy - ours) / seconds
        return self._free

    def _now(self) -> _Sample:
        cpus = psutil.cpu_times(percpu=True)
        ours = [cpu for number, cpu in enumerate(cpus) if self._allowed is None or number in self._allowed]
        busy = sum(getattr(cpu, kind, 0.0) for cpu in ours for kind in _BUSY)
        return _Sample(time.perf_counter(), busy, self._nodes())

    def _nodes(self) -> dict[int, float]:
        """The CPU seconds used by each process of the nodes of this machine and user, including this one."""
        used = {}
        for kind in (_NODE, _CHILD):
            for process in _processes(self._folder, kind):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    used[process.pid] = times.user + times.system
        return used


def _processes(folder: Path, kind: str = _NODE) -> Iterator[psutil.Process]:
    """The processes that are marked in the folder: those of nodes, or those that compute for them."""
    for mark in folder.glob(f"{kind}-*"):
        try:
            yield psutil.Process(int(mark.name.partition("-")[2]))
        except psutil.NoSuchProcess:
            mark.unlink(missing_ok=True)  # it was killed
            orders_path(int(mark.name.partition("-")[2]), folder).unlink(missing_ok=True)


def local_nodes(folder: Path | None = None) -> dict[int, str]:
    """The pid and the name of each node of this machine and user."""
    folder = folder or default_folder()
    return {process.pid: (folder / f"node-{process.pid}").read_text(encoding="utf-8") for process in _processes(folder)}
