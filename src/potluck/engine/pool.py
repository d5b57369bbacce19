"""ggml's own pool of threads, for builds of llama.cpp without OpenMP, which would start new threads for each batch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from potluck.errors import EngineError
from potluck.llama.devices import cpu_function
from potluck.llama.library import Llama
from potluck.platform import bind_thread, thread_cpus

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
    """The threads that compute for one context at a time. There are none until `use`.

    They sleep between batches. When other threads take their place, they end only after the first batch that the new
    ones compute, because until then llama.cpp still knows them.
    """

    def __init__(self, library: Llama) -> None:
        self._library = library
        self._default = library.function("ggml_threadpool_params_default", _Params, [ctypes.c_int])
        given = self._default(3)
        if (given.n_threads, given.prio, given.strict_cpu, given.paused) != (3, 0, False, False) or any(given.cpumask):
            raise EngineError(f"{library.files.name} is laid out in another way: ggml_threadpool_params differs.")
        self._new = cpu_function(library, "ggml_threadpool_new", ctypes.c_void_p, [ctypes.POINTER(_Params)])
        self._free = cpu_function(library, "ggml_threadpool_free", None, [ctypes.c_void_p])
        self._handle: int | None = None
        self._cpus: Sequence[int] = ()
        self._stale: list[int] = []
        self._free_cpus: set[int] | None = None
        """The CPUs that the calling thread could run on before it was bound; None if it is not bound."""

    def use(self, cpus: Sequence[int]) -> None:
        """Have one thread for each of these CPUs, bound to it where the system can do that.

        The caller is one of them. A context must be given the threads with `attach`.
        """
        self.rest()
        free = thread_cpus()
        binds = free is not None and len(cpus) > 1 and free.issuperset(cpus) and max(cpus) < _MOST_CPUS
        if self._handle is None or tuple(cpus) != self._cpus:
            self._replace(cpus, binds)
        if binds:
            self._free_cpus = free
            bind_thread({max(cpus)})  # ggml gives the others the lower numbers

    def _replace(self, cpus: Sequence[int], binds: bool) -> None:
        params = self._default(len(cpus))
        params.poll = 0  # spinning threads would take the cores from other nodes of this machine
        params.strict_cpu = binds
        for cpu in cpus if binds else ():
            params.cpumask[cpu] = True
        handle = self._new(ctypes.byref(params))
        if not handle:
            raise EngineError(f"llama.cpp cannot start {len(cpus)} threads.")
        if self._handle is not None:
            self._stale.append(self._handle)
        self._handle, self._cpus = handle, tuple(cpus)

    def attach(self, context: int) -> None:
        """Let this context compute with the threads."""
        if self._handle is not None:
            self._library.llama_attach_threadpool(context, self._handle, None)

    def ran(self) -> None:
        """After a batch: end the threads that were replaced before it."""
        while self._stale:
            self._free(self._stale.pop())

    def rest(self) -> None:
        """Let the calling thread run where it could before."""
        if self._free_cpus is not None:
            bind_thread(self._free_cpus)
            self._free_cpus = None

    def close(self) -> None:
        """End all threads. No context may be left that computes with them."""
        self.rest()
        self.ran()
        if self._handle is not None:
            self._free(self._handle)
            self._handle = None
