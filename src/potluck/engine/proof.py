"""The self-test of a model's cuts: layers that are loaded together and apart compute the same bits, or it fails.

As many layers as the memory takes are loaded as one part of the model, and then again piece by piece. Both compute some
rows of two sessions. The test runs in a child process, because llama.cpp ends its process over a file it cannot take.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt

from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.errors import EngineError, PotluckError
from potluck.models.manifest import Manifest
from potluck.models.sources import local_source, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import cuts_of, plan_span
from potluck.types import Attention, Capacity, Cuts, Span

_BATCHES = ((1, 0, 40), (2, 0, 9), *((session, place, place + 1) for place in range(40, 44) for session in (1,)))
"""For each batch, the session, and where its positions begin and end."""
_ROWS = sum(end - begin for _, begin, end in _BATCHES)
_CAPACITY = Capacity(2, 256, 64)

Data = npt.NDArray[Any]


class Order(msgspec.Struct, frozen=True):
    """What to test. memory: the bytes that the layers which are loaded together may take."""

    model: str
    memory: int


def prove(model: Path, memory: int) -> None:
    """Raises EngineError, with the layers, when a model's cuts do not compute what the model computes."""
    order = msgspec.json.encode(Order(str(model), memory)).decode()
    child = subprocess.run(
        [sys.executable, "-m", "potluck.engine.proof", order],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        told = [line for line in child.stdout.splitlines() if line.startswith(_TOLD)]
        reason = told[-1].removeprefix(_TOLD) if told else "llama.cpp ended its process over one of its parts."
        raise EngineError(f"{model.name} failed its self-test: {reason}")


_TOLD = "self-test: "


def parts(cuts: Cuts, sizes: list[int], memory: int) -> Iterator[Span]:
    """Spans that follow each other, each as long as the memory allows, and of one piece at least."""
    first = 0
    while first < cuts.layers:
        ends = [span.last for span in cuts.spans() if span.first == first]
        fitting = [last for last in ends if sum(sizes[first : last + 1]) <= memory]
        last = max(fitting, default=min(ends))
        yield Span(first, last)
        first = last + 1


def pieces(cuts: Cuts, part: Span) -> list[Span]:
    """The shortest spans into which a part may be cut, each with the next allowed end."""
    found, first = [], part.first
    while first <= part.last:
        last = min(span.last for span in cuts.spans() if span.first == first and span.last <= part.last)
        found.append(Span(first, last))
        first = last + 1
    return found


def _test(model: Path, memory: int, folder: Path) -> None:
    manifest, cuts = open_model(model), cuts_of(open_model(model))
    data: Data = (np.arange(_ROWS) * 7919 % manifest.vocabulary).astype(np.int32)
    for part in parts(cuts, manifest.layer_bytes(), memory):
        small = pieces(cuts, part)
        whole = _computed(model, manifest, part, [piece.last for piece in small], data, folder)
        for piece, expected in zip(small, whole, strict=True):
            [rows] = _computed(model, manifest, piece, [piece.last], data, folder)
            if not np.isfinite(rows).all():
                _fail(f"Layers {piece} give numbers that are not finite.")
            if not np.array_equal(rows, expected):
                _fail(f"Layers {piece} alone do not compute what they compute among layers {part}.")
            data = rows


def _computed(
    model: Path, manifest: Manifest, span: Span, lasts: list[int], data: Data, folder: Path
) -> list[npt.NDArray[np.float32]]:
    """The rows after each of these layers, or the logits after the model's last one."""
    file = folder / f"{span}.gguf"
    write_span_file(file, *plan_span(manifest, span), local_source(model), lambda _: None)
    engine = LlamaCppEngine(
        file, span=span, layers=manifest.layers, attention=Attention.EXACT, capacity=_CAPACITY, threads=1
    )
    try:
        return [_run(engine, data, last) for last in lasts]
    finally:
        engine.unload()
        file.unlink()


def _run(engine: LlamaCppEngine, data: Data, last: int) -> npt.NDArray[np.float32]:
    made, start = [], 0
    for session, begin, end in _BATCHES:
        count = end - begin
        made += engine.forward([Segment(session, begin, data[start : start + count], last, count)])
        start += count
    engine.close(1)
    engine.close(2)
    return np.concatenate(made)


def _fail(reason: str) -> NoReturn:
    raise EngineError(reason)


def _main(order: Order) -> int:
    with TemporaryDirectory(prefix="potluck-proof-") as folder:
        try:
            _test(Path(order.model), order.memory, Path(folder))
        except PotluckError as error:
            sys.stdout.write(f"{_TOLD}{error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(msgspec.json.decode(sys.argv[1], type=Order)))
