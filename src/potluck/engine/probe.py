"""Examines a span before it serves: does it survive, how fast is it, and which other nodes compute the same bits?

A native library can kill its process (a compiler's bug once crashed every batch of two or more tokens on CPUs with
AMX), so the first forwards run in a child process: `python -m potluck.engine.probe`.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from potluck.engine.base import Engine, Progress, Rows, Segment, Tokens, ignore
from potluck.errors import EngineError
from potluck.llama.library import load
from potluck.types import NO_OFFLOAD, Attention, Capacity, Offload, Span, Speed

if TYPE_CHECKING:
    from potluck.engine.llamacpp import LlamaCppEngine

_SESSION = -1
_MANY = 64
_REPEATS = 5
_BATCHES = (2, 3, 4, 7, 17, 33, _MANY)
"""Numbers of rows at which kernels change: one row or several, and blocks of 4, 16 and 32 rows with what is left."""
_MANY_SHARE = 0.35
"""The part of the measurement's time that the first batch takes, for the progress that is told."""
_LOAD_SHARE = 0.7
"""The share of loading in the time of a trial."""
_FRACTION = re.compile(rb"[01]\.[0-9]{3}\r?\n")


class Trial(msgspec.Struct, frozen=True):
    """A span file, and how to load it. capacity: that of the trial; it must be the real one where room is tried.

    kernels: the plug-in for the CPU; empty where the library has none, or to take the best.
    """

    path: str
    span: Span
    layers: int
    attention: Attention
    threads: int
    extra_buffers: bool
    offload: Offload = NO_OFFLOAD
    capacity: Capacity = Capacity(2, 512, 128)
    kernels: str = ""

    def load(self, capacity: Capacity, progress: Progress = ignore) -> LlamaCppEngine:
        from potluck.engine.llamacpp import LlamaCppEngine  # here only: a process that runs PyTorch must not load it

        load(Path(self.kernels) if self.kernels else None)
        return LlamaCppEngine(
            Path(self.path),
            span=self.span,
            layers=self.layers,
            attention=self.attention,
            capacity=capacity,
            threads=self.threads,
            extra_buffers=self.extra_buffers,
            offload=self.offload,
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


def measure(engine: Engine, progress: Progress = ignore) -> tuple[Speed, str]:
    """The engine's speed, and the hash of its build and of its output for a fixed input (its "twin" mark).

    The build counts because kernels that differ in the last bit of one row in a thousand may give the same output for
    the fixed input, and twins must not be accused because of that. The mark is empty if the engine promises no bits, or
    if rows come out differently in a batch and alone: such an engine has no twins.
    """
    data = probe_input(engine, _MANY + _REPEATS)
    prefill_s, output = _timed(engine, 0, data[:_MANY])
    progress(_MANY_SHARE)
    digest = hashlib.sha256(engine.build.encode() + output.tobytes())
    decode, alone = [], []
    for position in range(_MANY, _MANY + _REPEATS):
        seconds, output = _timed(engine, position, data[position : position + 1])
        decode.append(seconds)
        alone.append(output)
        digest.update(output.tobytes())
        progress(_MANY_SHARE * (1 + len(alone) / _REPEATS))
    exact = bool(engine.build) and _batches_are_exact(engine, data, np.concatenate(alone))
    engine.close(_SESSION)
    progress(1.0)
    speed = Speed(decode_s=sorted(decode)[_REPEATS // 2], prefill_s=prefill_s / _MANY)
    return speed, digest.hexdigest()[:16] if exact else ""


def _batches_are_exact(engine: Engine, data: Tokens | Rows, alone: Rows) -> bool:
    """Whether the last rows of batches of every kind have the bits that they had alone, `alone` `[_REPEATS, …]`."""
    for rows in _BATCHES:
        wanted = min(rows, _REPEATS)
        _return_to(engine, data, len(data) - rows)
        _, together = _timed(engine, len(data) - rows, data[-rows:], wanted)
        if together[-wanted:].tobytes() != alone[-wanted:].tobytes():
            return False
    return True


def _return_to(engine: Engine, data: Tokens | Rows, length: int) -> None:
    """Let the session hold the first rows only. An engine that cannot forget a part computes them again."""
    try:
        engine.truncate(_SESSION, length)
    except EngineError:
        engine.close(_SESSION)
        for begin in range(0, length, _MANY):
            _timed(engine, begin, data[begin : min(begin + _MANY, length)])


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
    """Run a trial in the child process, and print the progress as lines."""

    def tell(fraction: float) -> None:
        sys.stdout.write(f"{fraction:.3f}\n")
        sys.stdout.flush()

    engine = trial.load(trial.capacity, lambda fraction: tell(_LOAD_SHARE * fraction))
    measure(engine, progress=lambda fraction: tell(_LOAD_SHARE + (1 - _LOAD_SHARE) * fraction))


if __name__ == "__main__":
    _try(msgspec.json.decode(sys.argv[1], type=Trial))
