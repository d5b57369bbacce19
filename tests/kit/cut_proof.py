"""Proves that a span computes what the unsplit model computes: each row between layers, and each logit.

Both follow the same script of batches, in which sessions share batches, forget and are moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.engine.slots import Shape
from potluck.models.manifest import Manifest
from potluck.models.sources import local_source, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import plan_span
from potluck.types import Attention, Capacity, Span

Rows = npt.NDArray[np.float32]
CAPACITY = Capacity(4, 1024, 256)


class Part(NamedTuple):
    """Positions of one session, which come in one batch."""

    session: int
    begin: int
    end: int


class Forget(NamedTuple):
    """Forget the positions from this one on."""

    session: int
    begin: int


class Compact(NamedTuple):
    """Lay the sessions in the cache one after the other, as happens when it is full."""


class Move(NamedTuple):
    """Export a session, and import it as another one."""

    session: int
    to: int


Script = Sequence[list[Part] | Forget | Compact | Move]


def single(session: int, begin: int, end: int) -> list[list[Part]]:
    """One token after the other."""
    return [[Part(session, position, position + 1)] for position in range(begin, end)]


PROMPT_AND_TOKENS: Script = [[Part(1, 0, 150)], [Part(1, 150, 200)], *single(1, 200, 240)]
SHARED: Script = [
    [Part(2, 0, 37), Part(3, 0, 60)],
    *([Part(2, position, position + 1), Part(3, position + 23, position + 24)] for position in range(37, 45)),
    Compact(),
    [Part(2, 45, 48), Part(3, 68, 69)],
]
FORGETTING: Script = [Forget(1, 120), [Part(1, 120, 160)], *single(1, 160, 165)]
"""To follow PROMPT_AND_TOKENS, before the sessions are laid together: then windows keep only what they still see."""
MOVING: Script = [Move(3, 4), *single(4, 69, 75)]
"""To follow SHARED."""


def rows_of(script: Script) -> int:
    """The number of rows that a script computes."""
    return sum(part.end - part.begin for batch in script if isinstance(batch, list) for part in batch)


def follow(engine: LlamaCppEngine, script: Script, data: npt.NDArray[Any], last: int) -> Rows:
    """All rows after layer `last`, or all logits, in the order of the script. data: what enters, in the same order."""
    made, begin = [], 0
    for step in script:
        if isinstance(step, Forget):
            engine.truncate(step.session, step.begin)
        elif isinstance(step, Compact):
            engine._cache.arrange()
        elif isinstance(step, Move):
            state = engine.export(step.session)
            engine.close(step.session)
            engine.restore(step.to, state)
        else:
            segments = []
            for part in step:
                count = part.end - part.begin
                segments.append(Segment(part.session, part.begin, data[begin : begin + count], last, count))
                begin += count
            made += engine.forward(segments)
    for session in range(1, 5):
        engine.close(session)
    return np.concatenate(made)


@contextmanager
def engine_of(
    path: Path, manifest: Manifest, span: Span, positions: int = CAPACITY.positions
) -> Iterator[LlamaCppEngine]:
    """An engine for a file that holds these layers."""
    engine = LlamaCppEngine(
        path,
        span=span,
        layers=manifest.layers,
        attention=Attention.EXACT,
        capacity=replace(CAPACITY, positions=positions),
        threads=1,
    )
    try:
        yield engine
    finally:
        engine.unload()


@contextmanager
def span_engine(path: Path, span: Span, folder: Path, positions: int = CAPACITY.positions) -> Iterator[LlamaCppEngine]:
    """An engine for a span that is cut out of a whole model's file."""
    manifest = open_model(path)
    file = folder / f"{span}.gguf"
    write_span_file(file, *plan_span(manifest, span), local_source(path), lambda _: None)
    with engine_of(file, manifest, span, positions) as engine:
        yield engine
    file.unlink()


@contextmanager
def shared_cells() -> Iterator[None]:
    """Engines that are made now have no slots."""
    with patch("potluck.engine.session_table.best_shape", lambda capacity, *_: Shape(capacity.sessions, 0)):
        yield


class Reference:
    """What the unsplit model computes up to each of these points, in a cache whose cells all sessions share."""

    def __init__(self, path: Path, points: Sequence[int], script: Script) -> None:
        manifest = open_model(path)
        tokens = np.random.default_rng(0).integers(0, manifest.vocabulary, rows_of(script)).astype(np.int32)
        self._at: dict[int, npt.NDArray[Any]] = {0: tokens}
        whole = Span(0, manifest.layers - 1)
        with shared_cells(), engine_of(path, manifest, whole) as engine:
            for point in points[1:]:
                self._at[point] = follow(engine, script, tokens, point - 1)

    def at(self, point: int) -> npt.NDArray[Any]:
        """What enters this layer: token ids, or rows; the logits where there is no such layer any more."""
        return self._at[point]
