"""Proves that spans of a model compute what the unsplit model computes: every row between layers, and every logit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.models.manifest import Manifest
from potluck.models.sources import local_source, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import plan_span
from potluck.types import Attention, Capacity, Span

Rows = npt.NDArray[np.float32]
CAPACITY = Capacity(4, 1024, 256)
PROMPT, STEPS = 200, 40
PARTS = [(0, 150), (150, PROMPT), *((position, position + 1) for position in range(PROMPT, PROMPT + STEPS))]
"""The beginnings and ends of the batches in which the positions come."""


@contextmanager
def engine_of(path: Path, manifest: Manifest, span: Span) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(
        path,
        span=span,
        layers=manifest.layers,
        attention=Attention.EXACT,
        capacity=CAPACITY,
        threads=1,
    )
    try:
        yield engine
    finally:
        engine.unload()


@contextmanager
def span_engine(path: Path, span: Span, folder: Path) -> Iterator[LlamaCppEngine]:
    manifest = open_model(path)
    file = folder / f"{span}.gguf"
    write_span_file(file, *plan_span(manifest, span), local_source(path), lambda _: None)
    with engine_of(file, manifest, span) as engine:
        yield engine


def run(engine: LlamaCppEngine, data: npt.NDArray[np.generic], last: int, session: int = 1, begin: int = 0) -> Rows:
    """All rows after layer `last`, or all logits, of the positions from `begin` on. data: those of all positions."""
    engine.truncate(session, begin)
    parts = [(max(begin, first), end) for first, end in PARTS if end > begin]
    segments = [Segment(session, first, data[first:end], last, end - first) for first, end in parts]
    return np.concatenate([engine.forward([segment])[0] for segment in segments])


class Reference:
    """The unsplit model's rows between layers. tokens: of all positions."""

    def __init__(self, path: Path, points: tuple[int, ...], seed: int = 0) -> None:
        manifest = open_model(path)
        random = np.random.default_rng(seed)
        self.tokens = random.integers(0, manifest.vocabulary, PROMPT + STEPS).astype(np.int32)
        with engine_of(path, manifest, Span(0, manifest.layers - 1)) as engine:
            self._rows = {0: self.tokens}
            for point in points[1:]:
                engine.close(1)
                self._rows[point] = run(engine, self.tokens, point - 1)

    def at(self, point: int) -> npt.NDArray[np.generic]:
        """What enters this layer; the logits where there is no such layer any more."""
        return self._rows[point]
