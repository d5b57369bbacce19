"""The bandwidth of this machine's memory."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_BUFFER_BYTES = 1 << 30
"""Much more than caches hold."""


def bandwidth(threads: int, repeats: int = 5) -> float:
    """The bytes/s that so many threads together read from memory, at best."""
    buffer = np.ones(_BUFFER_BYTES // 8, np.uint64)
    parts = np.array_split(buffer, threads)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            begin = time.perf_counter()
            list(pool.map(np.add.reduce, parts))
            seconds.append(time.perf_counter() - begin)
    return buffer.nbytes / min(seconds)
