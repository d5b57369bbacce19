"""The bandwidth of this machine's memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_BUFFER_BYTES = 1 << 30
"""Much more than caches hold."""


def bandwidth(threads: int, repeats: int = 5) -> float:
    """The bytes/s that so many threads together read from memory, at best. For one thread, processor time counts."""
    buffer = np.ones(_BUFFER_BYTES // 8, np.uint64)
    parts = np.array_split(buffer, threads)
    clock = clock_of(threads)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        reading = map if threads == 1 else pool.map
        for _ in range(repeats):
            begin = clock()
            list(reading(np.add.reduce, parts))
            seconds.append(clock() - begin)
    return buffer.nbytes / min(seconds)


def clock_of(threads: int) -> Callable[[], float]:
    """The clock for so many threads. The processor time of a single one tells little of other programs."""
    return time.thread_time if threads == 1 else time.perf_counter
