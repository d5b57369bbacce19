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
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.errors import EngineError, ModelError, PotluckError, SpanError
from potluck.models.files import unwritable
from potluck.models.manifest import Manifest
from potluck.models.sources import cache_folder, local_source, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import cuts_of, plan_span
from potluck.types import Attention, Capacity, Cuts, Span

_BATCHES = ((1, 0, 40), (2, 0, 9), *((1, place, place + 1) for place in range(40, 44)))
"""For each batch, the session, and where its positions begin and end."""
_ROWS = sum(end - begin for _, begin, end in _BATCHES)
_CAPACITY = Capacity(2, 256, 64)

Data = npt.NDArray[Any]


class Order(msgspec.Struct, frozen=True):
    """What to test. memory: the bytes that the layers which are loaded together may take."""

    model: str
    memory: int


def prove(model: Path, memory: int) -> None:
    """Raises EngineError, with the layers, when parts of a model do not compute what the model computes.

    Raises ModelError when the test cannot be made, as for want of disk.
    """
    order = msgspec.json.encode(Order(str(model), memory)).decode()
    child = subprocess.run(
        [sys.executable, "-m", "potluck.engine.proof", order],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    told = "".join(line.removeprefix(_TOLD) for line in child.stdout.splitlines() if line.startswith(_TOLD))
    if child.returncode == _IMPOSSIBLE:
        raise ModelError(f"The self-test of {model.name} cannot be made: {told}")
    if child.returncode:
        reason = told or (child.stderr.splitlines() or ["it ended early"])[-1]
        ended = "llama.cpp ended its process over one of its parts." if child.returncode < 0 else reason
        raise EngineError(f"{model.name} failed its self-test: {ended}")


_TOLD = "self-test: "
_FAILED, _IMPOSSIBLE = 3, 4
"""The exit statuses of the child."""


def parts(cuts: Cuts, sizes: list[int], memory: int) -> Iterator[tuple[Span, list[Span]]]:
    """Spans that follow each other, each as long as the memory allows, with the shortest spans that it is made of."""
    small = _shortest(cuts)
    while small:
        spans = [Span(small[0].first, one.last) for one in small]
        fitting = [n for n, span in enumerate(spans, 1) if cuts.allows(span) and _size(sizes, span) <= memory]
        count = max(fitting, default=1)
        yield spans[count - 1], small[:count]
        del small[:count]


def _shortest(cuts: Cuts) -> list[Span]:
    """The model in as many spans as it can be cut into."""
    for count in range(len(cuts.points) - 1, 1, -1):
        try:
            return cuts.split(count)
        except SpanError:
            continue
    return cuts.split(1)


def _size(sizes: list[int], span: Span) -> int:
    return sum(sizes[span.first : span.last + 1])


def _test(model: Path, memory: int, folder: Path) -> None:
    manifest = open_model(model)
    cuts = cuts_of(manifest)
    data: Data = (np.arange(_ROWS) * 7919 % manifest.vocabulary).astype(np.int32)
    for part, small in parts(cuts, manifest.layer_bytes(), memory):
        whole = _computed(model, manifest, part, [piece.last for piece in small], data, folder)
        for piece, expected in zip(small, whole, strict=True):
            [rows] = _computed(model, manifest, piece, [piece.last], data, folder)
            if not np.isfinite(rows).all():
                raise EngineError(f"Layers {piece} give numbers that are not finite.")
            if not np.array_equal(rows, expected):
                raise EngineError(f"Layers {piece} alone do not compute what they compute among layers {part}.")
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


def _main(order: Order) -> int:
    kept = cache_folder()
    try:
        kept.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.stdout.write(f"{_TOLD}{unwritable(kept, error)}\n")
        return _IMPOSSIBLE
    with TemporaryDirectory(prefix="self-test-", dir=kept) as folder:  # where there is room for spans
        try:
            _test(Path(order.model), order.memory, Path(folder))
        except PotluckError as error:
            sys.stdout.write(f"{_TOLD}{error}\n")
            return _FAILED if isinstance(error, EngineError) else _IMPOSSIBLE
    return 0


if __name__ == "__main__":
    sys.exit(_main(msgspec.json.decode(sys.argv[1], type=Order)))
