"""An engine that computes next to nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from potluck.engine.base import Output, Segment
from potluck.errors import EngineError
from potluck.local import HANG_S
from potluck.types import Capacity, Span, Speed

LAYERS = 4
SPEED = Speed(decode_s=1.0, prefill_s=0.25)
FIRST, LAST = Span(0, 1), Span(2, 3)
WIDTH = 3
VOCABULARY = 8


class ToyEngine:
    """Adds 1 to every value; the token ids of a first span become rows of that value. Logits: the values, then 0."""

    hidden_size, vocabulary, layers, build = WIDTH, VOCABULARY, LAYERS, "toy"

    def __init__(self, span: Span) -> None:
        self.span = span
        self.capacity = Capacity(sessions=8, positions=64, rows=32)
        self.lengths: dict[int, int] = {}
        self.batches: list[list[int]] = []
        self.cores: Sequence[int] = ()
        self.poisoned: dict[int, Exception] = {}
        self.before: Callable[[], object] = lambda: None
        self.worse = np.float32(0)
        self.arranging: set[int] = set()

    def forward(self, batch: Sequence[Segment]) -> list[Output]:
        assert len({segment.last for segment in batch}) == 1
        self.before()
        self.batches.append([segment.session for segment in batch])
        for segment in batch:
            if segment.session in self.poisoned:
                raise self.poisoned[segment.session]
            if segment.position != self.length(segment.session):
                raise EngineError(f"Position {segment.position} does not follow.")
        return [self._run(segment) for segment in batch]

    def _run(self, segment: Segment) -> Output:
        self.lengths[segment.session] = segment.position + segment.rows
        rows = segment.data.astype(np.float32) + 1 + self.worse
        rows = np.repeat(rows[:, None], WIDTH, axis=1) if segment.data.ndim == 1 else rows
        if segment.last < LAYERS - 1:
            return rows
        logits = np.zeros((segment.wanted, VOCABULARY), np.float32)
        logits[:, :WIDTH] = rows[len(rows) - segment.wanted :]
        return logits

    def must_arrange(self, lengths: Mapping[int, int]) -> bool:
        return bool(self.arranging & lengths.keys())

    def use_cores(self, cores: Sequence[int]) -> None:
        self.cores = cores

    def rest(self) -> None:
        pass

    @property
    def sessions(self) -> int:
        return len(self.lengths)

    def length(self, session: int) -> int:
        return self.lengths.get(session, 0)

    def truncate(self, session: int, length: int) -> None:
        self.lengths[session] = length

    def close(self, session: int) -> None:
        self.lengths.pop(session, None)

    def export(self, session: int) -> bytes:
        if session not in self.lengths:
            raise EngineError("It is not here.")
        return b"." * self.lengths[session]

    def restore(self, session: int, state: bytes) -> None:
        self.close(session)
        if set(state) != {ord(".")}:
            raise EngineError("These are no cells.")
        self.lengths[session] = len(state)

    def unload(self) -> None:
        raise NotImplementedError


class TwoCores:
    """Two cores that a test may take away, by clearing `free`."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()

    @contextmanager
    def share(self, *, wait: bool = True) -> Iterator[tuple[int, ...]]:
        yield (0, 1) if self.free.wait(HANG_S if wait else 0) else ()
