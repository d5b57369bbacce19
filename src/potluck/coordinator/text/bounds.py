"""What bounds a process that does what clients and models' files ask for: processor time, memory, and its priority."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

OUT_OF_MEMORY = 77
"""The exit code of a process that met its bound of memory. What it had taken may not all be free again, so it ends."""

TIME_UP = -signal.SIGPROF if hasattr(signal, "SIGPROF") else None
"""What `subprocess` tells of a process that met its bound of processor time."""


def step_back() -> None:
    """Let the answers that are under way have the processor first."""
    if hasattr(os, "nice"):  # not on Windows
        os.nice(10)


@contextmanager
def processor_bound(seconds: float) -> Iterator[None]:
    """The kernel ends this process if the block takes more processor time.

    On Windows only the parent's time limit can do this.

    This is a timer and not RLIMIT_CPU, which counts whole seconds since the start of the process.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def bound_memory(more: int) -> None:
    """Let this process take this many bytes of address space more than it has now, on Linux."""
    with suppress(ImportError, ValueError):  # Windows has no such limit, and macOS does not let it be set
        import resource

        most = psutil.Process().memory_info().vms + more
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
