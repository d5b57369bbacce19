"""Before a span serves: does it survive, how fast is it, and which other nodes compute the same bits?

A native library can kill its process (a compiler's bug once crashed every batch of two or more tokens on CPUs
with AMX), so the first forwards run in a child process: `python -m potluck.engine.probe`.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from potluck.engine.base import Engine, Progress, Rows, Segment, Tokens, ignore
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.types import Attention, Capacity, Span, Speed

_SESSION = -1
_MANY = 64
_REPEATS = 5
_MANY_SHARE = 0.5
"""Of the time that measuring takes, for the progress that is told."""
_LOAD_SHARE = 0.7
"""Of a trial's time."""
_FRACTION = re.compile(rb"[01]\.[0-9]{3}\n")


class Trial(msgspec.Struct, frozen=True):
    """A span file and how to load it."""

    path: str
    span: Span
    layers: int
    attention: Attention
    threads: int
    extra_buffers: bool

    def load(self, capacity: Capacity, progress: Progress = ignore) -> LlamaCppEngine:
        return LlamaCppEngine(
            Path(self.path),
            span=self.span,
            layers=self.layers,
            attention=self.attention,
            capacity=capacity,
            threads=self.threads,
            extra_buffers=self.extra_buffers,
            progress=progress,
        )


_running: set[subprocess.Popen[bytes]] = set()


def survives(trial: Trial, progress: Progress = ignore) -> bool:
    """Whether a child process lives through a one-row and a many-row batch of this trial."""
    child = subprocess.Popen(
        [sys.executable, "-m", "potluck.engine.probe", msgspec.json.encode(trial).decode()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    _running.add(child)
    try:
        with child.stdout as told:
            for line in told:
                if _FRACTION.fullmatch(line):  # a library may print as well
                    progress(float(line))
        return child.wait() == 0
    finally:
        _running.discard(child)


def stop_probes() -> None:
    """Kill the children of trials that are under way, so that none outlives this process."""
    children = list(_running)
    for child in children:
        child.kill()
    for child in children:
        child.wait()


def measure(engine: Engine, build: str = "", progress: Progress = ignore) -> tuple[Speed, str]:
    """The engine's speed, and the hash of what it makes of a fixed input (its "twin" mark).

    build: what else decides over bits. Kernels that differ in the last bit of one row in a thousand may make the same
    of the fixed input; twins must not be accused of that.
    The mark is empty where rows come out otherwise in a batch than alone: such an engine has no twins.
    """
    data = probe_input(engine, _MANY + _REPEATS)
    prefill_s, output = _timed(engine, 0, data[:_MANY])
    progress(_MANY_SHARE)
    digest = hashlib.sha256(build.encode() + output.tobytes())
    decode, alone = [], []
    for position in range(_MANY, _MANY + _REPEATS):
        seconds, output = _timed(engine, position, data[position : position + 1])
        decode.append(seconds)
        alone.append(output)
        digest.update(output.tobytes())
        progress(_MANY_SHARE + (1 - _MANY_SHARE) * len(alone) / (_REPEATS + 1))
    engine.truncate(_SESSION, _REPEATS)
    _, together = _timed(engine, _REPEATS, data[_REPEATS:], wanted=_REPEATS)
    engine.close(_SESSION)
    progress(1.0)
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


def _try(trial: Trial) -> None:
    """In the child: tell the progress as lines of stdout."""

    def tell(fraction: float) -> None:
        sys.stdout.write(f"{fraction:.3f}\n")
        sys.stdout.flush()

    engine = trial.load(Capacity(2, 512, 128), lambda fraction: tell(_LOAD_SHARE * fraction))
    measure(engine, progress=lambda fraction: tell(_LOAD_SHARE + (1 - _LOAD_SHARE) * fraction))


if __name__ == "__main__":
    _try(msgspec.json.decode(sys.argv[1], type=Trial))
