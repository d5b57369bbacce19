"""The twin mark: engines that have the same one compute the same bits, in every batch and with every set of kernels.

A wrong mark would convict honest nodes: an audit takes the smallest difference between twins for a lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from kit.tiny_gguf import write_tiny_gguf
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.engine.probe import Trial, measure, probe_input
from potluck.models.sources import local_source, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import plan_span
from potluck.types import MAX_STEP_ROWS, Attention, Capacity, Span

LAYERS = 4
WHOLE, MIDDLE = Span(0, LAYERS - 1), Span(1, 2)
FLOATS = ("F32", "F16", "BF16")
QUANTIZED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
GEOMETRIES: dict[str, dict[str, Any]] = {
    "small": {"hidden": 64, "feed_forward": 128},
    "odd": {"hidden": 96, "heads": 3, "feed_forward": 160},
}
"""Kernels take the matrices of one geometry and leave those of the other to slower ones."""


@contextmanager
def loaded(model: Path, span: Span, *, extra_buffers: bool = True) -> Iterator[LlamaCppEngine]:
    path = model.with_name(f"{model.stem}-{span}.gguf")
    write_span_file(path, *plan_span(open_model(model), span), local_source(model), lambda _: None)
    trial = Trial(str(path), span, LAYERS, Attention.EXACT, 1, extra_buffers)
    engine = trial.load(Capacity(sessions=4, positions=512, rows=MAX_STEP_ROWS))
    try:
        yield engine
    finally:
        engine.unload()


def batches_give_the_bits_of_single_rows(engine: LlamaCppEngine) -> bool:
    """Tried in full: a batch of every size that there can be."""
    data = probe_input(engine, MAX_STEP_ROWS)

    def run(session: int, start: int, end: int) -> np.ndarray:
        [output] = engine.forward([Segment(session, start, data[start:end], engine.span.last, end - start)])
        return output

    alone = np.concatenate([run(1, row, row + 1) for row in range(MAX_STEP_ROWS)])
    for rows in range(2, MAX_STEP_ROWS + 1):
        together = run(2, 0, rows)
        engine.close(2)
        if together.tobytes() != alone[:rows].tobytes():
            return False
    return True


@pytest.mark.parametrize("extra_buffers", [True, False], ids=["optimised", "plain"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dtype", [*FLOATS, *QUANTIZED])
def test_an_engine_has_a_mark_where_no_batch_changes_its_bits(
    dtype: str, geometry: str, extra_buffers: bool, tmp_path: Path
) -> None:
    """Which these are depends on the kernels: most multiply float matrices in another order for one row than for many,
    AMX's float16 kernels and the plain ones do not.
    """
    kind = GGMLQuantizationType[dtype]
    model = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=LAYERS, dtype=kind, **GEOMETRIES[geometry])
    for span in (WHOLE, MIDDLE):
        with loaded(model, span, extra_buffers=extra_buffers) as engine:
            assert (measure(engine)[1] != "") == batches_give_the_bits_of_single_rows(engine)


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_quantized_weights_have_a_mark_with_every_set_of_kernels(dtype: str, tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=LAYERS, dtype=GGMLQuantizationType[dtype])
    with loaded(model, MIDDLE) as engine:
        assert measure(engine)[1]


@pytest.fixture
def exact(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "exact.gguf", "llama", layers=LAYERS, dtype=GGMLQuantizationType.Q8_0)


def test_twins_have_one_mark_and_other_spans_and_layouts_another(exact: Path) -> None:
    with loaded(exact, MIDDLE) as one, loaded(exact, MIDDLE) as twin:
        told: list[float] = []
        speed, mark = measure(one, told.append)
        assert speed.decode_s > 0
        assert speed.prefill_s > 0
        assert mark
        assert measure(twin)[1] == mark
        assert (told, told[-1]) == (sorted(told), 1.0)
        assert one.length(-1) == 0
    with loaded(exact, WHOLE) as whole, loaded(exact, MIDDLE, extra_buffers=False) as plain:
        assert measure(whole)[1] not in ("", mark)
        assert measure(plain)[1] not in ("", mark)


class Unsteady:
    """An engine whose rows come out otherwise in batches of one size."""

    def __init__(self, engine: LlamaCppEngine, rows: int) -> None:
        self._engine = engine
        self._rows = rows

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def forward(self, batch: list[Segment]) -> list[np.ndarray]:
        outputs = self._engine.forward(batch)
        changed = sum(segment.rows for segment in batch) == self._rows
        return [output * np.float32(1 + 1e-6) if changed else output for output in outputs]


@pytest.mark.parametrize("rows", [2, 3, 4, 7, 17, 33, 64])
def test_one_size_of_batch_with_other_bits_costs_the_mark(rows: int, exact: Path) -> None:
    with loaded(exact, MIDDLE) as engine:
        assert measure(Unsteady(engine, rows))[1] == ""  # type: ignore[arg-type]


def test_an_engine_that_promises_no_bits_has_no_twins(exact: Path) -> None:
    with loaded(exact, MIDDLE) as engine:
        engine.build = ""
        assert measure(engine)[1] == ""
