"""Before a span serves: does it survive, how fast is it, and which other nodes compute the same bits?

A native library can kill its process (a compiler's bug once crashed every batch of two or more tokens on CPUs
with AMX), so the first forwards run in a child process: `python -m potluck.engine.probe`.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from potluck.engine.base import Engine, Rows, Segment, Tokens
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.types import Attention, Capacity, Span, Speed

_SESSION = -1
_MANY = 64
_REPEATS = 5


class Trial(msgspec.Struct, frozen=True):
    """A span file and how to load it."""

    path: str
    span: Span
    layers: int
    attention: Attention
    threads: int
    extra_buffers: bool

    def load(self, capacity: Capacity) -> LlamaCppEngine:
        return LlamaCppEngine(
            Path(self.path),
            span=self.span,
            layers=self.layers,
            attention=self.attention,
            capacity=capacity,
            threads=self.threads,
            extra_buffers=self.extra_buffers,
        )


_running: set[subprocess.Popen[bytes]] = set()


def survives(trial: Trial) -> bool:
    """Whether a child process lives through a one-row and a many-row batch of this trial."""
    child = subprocess.Popen(
        [sys.executable, "-m", "potluck.engine.probe", msgspec.json.encode(trial).decode()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _running.add(child)
    try:
        return child.wait() == 0
    finally:
        _running.discard(child)


def stop_probes() -> None:
    """Kill the children of trials that are under way, so that none outlives this process."""
    for child in list(_running):
        child.kill()


def measure(engine: Engine, build: str = "") -> tuple[Speed, str]:
    """The engine's speed, and the hash of what it makes of a fixed input (its "twin" mark).

    build: what else decides over bits. Kernels that differ in the last bit of one row in a thousand may make the same
    of the fixed input; twins must not be accused of that.
    The mark is empty where rows come out otherwise in a batch than alone: such an engine has no twins.
    """
    data = probe_input(engine, _MANY + _REPEATS)
    prefill_s, output = _timed(engine, 0, data[:_MANY])
    digest = hashlib.sha256(build.encode() + output.tobytes())
    decode, alone = [], []
    for position in range(_MANY, _MANY + _REPEATS):
        seconds, output = _timed(engine, position, data[position : position + 1])
        decode.append(seconds)
        alone.append(output)
        digest.update(output.tobytes())
    engine.truncate(_SESSION, _REPEATS)
    _, together = _timed(engine, _REPEATS, data[_REPEATS:], wanted=_REPEATS)
    engine.close(_SESSION)
    exact = together[-_REPEATS:].tobytes() == np.concatenate(alone).tobytes()
    speed = Speed(decode_s=sorted(decode)[_REPEATS // 2], prefill_s=prefill_s / _MANY)
    return speed, digest.hexdigest()[:16] if exact else ""


def _timed(engine: Engine, position: int, data: Tokens | Rows, wanted: int = 1) -> tuple[float, Rows]:
    begin = time.perf_counter()
    [output] = engine.forward([Segment(_SESSION, position, data, engine.span.last, wanted)])
    return time.perf_counter() - begin, output


def probe_input(engine: Engine, rows: int) -> Tokens | Rows:
    """The same tokens `[rows]`, or hidden rows `[rows, d]`, on every machine."""
    if engine.span.first == 0:
        return (np.arange(rows) * 7919 % engine.vocabulary).astype(np.int32)
    # Small integers over a power of two: exact in float32, without a random generator that might change.
    grid = np.arange(rows * engine.hidden_size) * 2654435761 % 1021
    return ((grid - 510) / 256).astype(np.float32).reshape(rows, engine.hidden_size)


if __name__ == "__main__":
    measure(msgspec.json.decode(sys.argv[1], type=Trial).load(Capacity(2, 512, 128)))
