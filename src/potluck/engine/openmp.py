"""Controls the OpenMP threads that llama.cpp computes with: where they run, and when they are let go.

All functions concern the calling thread and its team, because OpenMP keeps a pool for each thread that computes.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from functools import cache

from potluck.llama.library import load
from potluck.platform import bind_thread, thread_cpus

_PAUSE_SOFT = 1  # omp_pause_resource: give up the thread pool, keep everything else


@cache
def _runtime() -> ctypes.CDLL | None:
    """The OpenMP runtime of the llama.cpp library, if that uses GNU's. It is the same instance, not another one."""
    library = load()
    if not library.has_openmp() or library.openmp is not None:
        return library.openmp
    try:
        return ctypes.CDLL("libgomp.so.1")
    except OSError:
        return None


_Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_caller = threading.local()
"""`free`: the CPUs that the calling thread could run on before it was bound; None if it is not bound."""


def bind(cpus: Sequence[int]) -> None:
    """Bind a team of `len(cpus)` threads, one to each CPU. A single thread, or CPUs that we may not use, are not bound.

    llama.cpp's threads meet after every operation. When they wake after a pause, Linux often puts two of them on one
    core, where they wait for each other until it notices, milliseconds later.
    """
    openmp = _runtime()
    if openmp is None:
        return
    _unbind()
    free = thread_cpus()
    if free is None or len(cpus) == 1 or not free.issuperset(cpus):
        return
    _caller.free = free
    number = openmp.omp_get_thread_num

    def settle(_: object) -> None:
        bind_thread({cpus[number()]})

    openmp.GOMP_parallel(_Region(settle), None, len(cpus), 0)


def _unbind() -> None:
    if getattr(_caller, "free", None) is not None:
        bind_thread(_caller.free)
        _caller.free = None


def let_go() -> None:
    """End the team's helper threads, and let the calling thread run where it could before."""
    openmp = _runtime()
    if openmp is not None:
        openmp.omp_pause_resource(_PAUSE_SOFT, openmp.omp_get_initial_device())
    _unbind()
