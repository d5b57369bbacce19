"""How much honest nodes differ if they are no twins, for the tolerances in src/potluck/coordinator/audits/verdict.py.

    python benchmarks/calibrate.py [--tokens 1500] [--model FILE]

Each span of a model (SmolLM2 as it is, and quantized anew) is computed from the same rows in two ways: with llama.cpp's
optimised weight layout, one token at a time, and with the plain one, 64 rows at a time. Rows travel as f32, f16 or q8,
or as f16 for one of the two only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bench.record import Figure, Measure
from bench.report import Report, options_parser
from bench.smaller import KINDS, requantized
from potluck.coordinator.audits.verdict import rows_error, scores_error
from potluck.coordinator.text.opening import open_tokenizer
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.local import demo_model
from potluck.models.sources import local_source, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import plan_span
from potluck.node.candidates import best_candidates
from potluck.types import MAX_STEP_ROWS, Attention, Capacity, RowFormat, Span, even_spans
from potluck.wire.rows import pack_rows, unpack_rows

TOP = 40
SESSION_TOKENS = 250
WIRES = (*((form, False) for form in RowFormat), (RowFormat.F32, True))
"""How rows travel, and whether one of the two engines gets rounded rows."""
TEXT = Path(__file__).parent.parent / "tests" / "data" / "alice.txt"


ROWS = Measure("rows", "count")
HIDDEN = {
    50: Measure("hidden p50", "ratio"),
    99.9: Measure("hidden p99.9", "ratio"),
    100: Measure("hidden, most", "ratio"),
}
LOGPROB = {
    50: Measure("log-prob. p50", "ratio"),
    99.9: Measure("log-prob. p99.9", "ratio"),
    100: Measure("log-prob., most", "ratio"),
}

Array = np.ndarray[Any, Any]


@dataclass
class Errors:
    """The errors of every row that was compared."""

    hidden: list[float] = field(default_factory=list)
    logprob: list[float] = field(default_factory=list)


def load(model: Path, span: Span, folder: Path, *, optimised: bool) -> LlamaCppEngine:
    manifest = open_model(model)
    file = folder / f"{model.stem}-{span}.gguf"
    if not file.exists():
        write_span_file(file, *plan_span(manifest, span), local_source(model), lambda _: None)
    return LlamaCppEngine(
        file,
        span=span,
        layers=manifest.layers,
        attention=Attention.EXACT,
        capacity=Capacity(2, 2 * SESSION_TOKENS, MAX_STEP_ROWS),
        threads=1,
        extra_buffers=optimised,
    )


def run(engine: LlamaCppEngine, data: Array, rows: int) -> Array:
    """All outputs of a session that gets so many rows at a time."""
    engine.close(1)
    starts = range(0, len(data), rows)
    parts = [data[start : start + rows] for start in starts]
    batches = zip(starts, parts, strict=True)
    return np.concatenate(
        [engine.forward([Segment(1, start, part, engine.span.last, len(part))])[0] for start, part in batches]
    )


def through_wire(rows: Array, form: RowFormat) -> Array:
    count, width = rows.shape
    return np.array(unpack_rows(memoryview(pack_rows(rows, form)), count, width, form))


def compare(model: Path, parts: int, sessions: list[Array], form: RowFormat, folder: Path, rounded: bool) -> Errors:
    """Compare both layouts span by span.

    rounded: the plain one gets f16 rows, which shows what the last bits become even if both layouts compute the same.
    """
    errors = Errors()
    inputs = sessions
    for span in even_spans(open_model(model).layers, parts):
        fast, plain = (load(model, span, folder, optimised=optimised) for optimised in (True, False))
        outputs = []
        for data in inputs:
            given = through_wire(data, RowFormat.F16) if rounded and span.first else data
            one, other = run(fast, data, 1), run(plain, given, MAX_STEP_ROWS)
            outputs.append(through_wire(one, form) if span.last < fast.layers - 1 else one)
            if span.last < fast.layers - 1:
                errors.hidden += rows_error(outputs[-1], through_wire(other, form)).tolist()
            else:
                errors.logprob += list(_scores_errors(one, other))
        inputs = outputs
        fast.unload()
        plain.unload()
    return errors


def _scores_errors(one: Array, other: Array) -> Iterator[float]:
    """Compare scores as audits do: the second engine is also asked for the candidates that the first one named."""
    for mine, theirs in zip(one, other, strict=True):
        named = best_candidates(mine, TOP, ())
        yield scores_error(named, best_candidates(theirs, TOP, named[0].tolist()), TOP)


def errors_of(path: Path, sessions: list[Array]) -> Iterator[tuple[str, Errors]]:
    """The errors of each way to quantize, cut and send the model, with a description of the way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {path.stem: path, **{kind: requantized(path, number, folder) for kind, number in KINDS.items()}}
        for (kind, model), parts, (form, rounded) in product(models.items(), (3, 2), WIRES):
            layers = open_model(model).layers // parts
            wire = "f16 for one" if rounded else form
            yield f"{kind}, {layers} layers, {wire}", compare(model, parts, sessions, form, folder, rounded)


def figures_of(case: str, errors: Errors) -> list[Figure]:
    return [
        ROWS.of(case, len(errors.hidden)),
        *(measure.of(case, float(np.percentile(errors.hidden, share))) for share, measure in HIDDEN.items()),
        *(measure.of(case, float(np.percentile(errors.logprob, share))) for share, measure in LOGPROB.items()),
    ]


def token_sessions(path: Path, count: int) -> list[Array]:
    """So many tokens in sessions of equal length; those of a text come first, then random ones."""
    tokenizer = open_tokenizer(path)
    text = tokenizer.encode(TEXT.read_text(), special=False, bos=False)
    random = np.random.default_rng(0).integers(256, tokenizer.vocabulary, max(0, count - len(text)))
    tokens = np.array([*text, *random.tolist()][:count], np.int32)
    return [tokens[start : start + SESSION_TOKENS] for start in range(0, len(tokens), SESSION_TOKENS)]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--model", type=Path, default=None)
    options = parser.parse_args()
    options.model = options.model or demo_model()
    report = Report("calibrate", options)
    figures: list[Figure] = []
    for case, errors in errors_of(options.model, token_sessions(options.model, options.tokens)):
        figures += figures_of(case, errors)
        print(f"{case}: {len(errors.hidden)} rows", flush=True)
    report.add({"weights, layers and wire": figures})
    report.finish()


if __name__ == "__main__":
    main()
