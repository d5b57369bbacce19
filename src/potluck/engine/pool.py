"""ggml's own pool of threads, for builds of llama.cpp without OpenMP, which would start new threads for each batch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from potluck.errors import EngineError
from potluck.llama.devices import cpu_function
from potluck.llama.library import Llama

_MOST_CPUS = 512  # GGML_MAX_N_THREADS


class _Params(ctypes.Structure):
    """`struct ggml_threadpool_params`. poll: how long threads spin after a batch, while they wait for the next."""

    _fields_ = [
        ("cpumask", ctypes.c_bool * _MOST_CPUS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    ]


class Pool:
    """The threads that compute for one context at a time. There are none until `use`."""

    def __init__(self, library: Llama) -> None:
        self._library = library
        self._default = library.function("ggml_threadpool_params_default", _Params, [ctypes.c_int])
        given = self._default(3)
        if (given.n_threads, given.prio, given.strict_cpu, given.paused) != (3, 0, False, False) or any(given.cpumask):
            raise EngineError(f"{library.files.name} is laid out in another way: ggml_threadpool_params differs.")
        self._new = cpu_function(library, "ggml_threadpool_new", ctypes.c_void_p, [ctypes.POINTER(_Params)])
        self._free = cpu_function(library, "ggml_threadpool_free", None, [ctypes.c_void_p])
        self._handle: int | None = None

    def use(self, cpus: Sequence[int]) -> None:
        """Have one thread for each of these CPUs, bound to it where the system can do that.

        The caller is one of them. A context must be given the new threads with `attach`.
        """
        self.let_go()
        params = self._default(len(cpus))
        # Spinning threads would take the cores from other nodes of this machine.
        params.poll = 0
        if len(cpus) > 1 and max(cpus) < _MOST_CPUS:
            params.strict_cpu = True
            for cpu in cpus:
                params.cpumask[cpu] = True
        self._handle = self._new(ctypes.byref(params))
        if not self._handle:
            raise EngineError(f"llama.cpp cannot start {len(cpus)} threads.")

    def attach(self, context: int) -> None:
        """Let this context compute with the threads."""
        if self._handle:
            self._library.llama_attach_threadpool(context, self._handle, None)

    def let_go(self) -> None:
        """End the threads. No context may compute with them any more: see `llama_detach_threadpool`."""
        if self._handle:
            self._free(self._handle)
            self._handle = None
