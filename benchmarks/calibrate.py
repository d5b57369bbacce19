"""How far honest nodes differ that are no twins: the figures behind src/potluck/coordinator/audits/verdict.py.

    python benchmarks/calibrate.py [--tokens 1500] [--model FILE]

Each span of a model (SmolLM2, as it is and quantized anew) is computed with llama.cpp's optimised weight layout, a
token at a time, and with the plain one, 64 rows at a time, both from the same rows: over f32 and f16 rows, and with
rows that are rounded to f16 for one of them only.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from common import begin, print_json, print_table
from potluck.coordinator.audits.verdict import rows_error, scores_error
from potluck.coordinator.text.opening import open_tokenizer
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine, start_library
from potluck.local import demo_model
from potluck.models.sources import local_source, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import plan_span
from potluck.node.candidates import best_candidates
from potluck.types import MAX_STEP_ROWS, Attention, Capacity, RowFormat, Span, even_spans
from potluck.wire.rows import pack_rows, unpack_rows

KINDS = {"Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}
TOP = 40
SESSION_TOKENS = 250
TEXT = Path(__file__).parent.parent / "tests" / "data" / "alice.txt"


@dataclass
class Errors:
    """Of every row that was compared."""

    hidden: list[float] = field(default_factory=list)
    logprob: list[float] = field(default_factory=list)


def requantized(model: Path, kind: int, folder: Path) -> Path:
    out = folder / f"{kind}.gguf"
    start_library()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = kind, True, 2
    if llama_cpp.llama_model_quantize(str(model).encode(), str(out).encode(), params):
        raise SystemExit(f"llama.cpp could not quantize {model}.")
    return out


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


def run(engine: LlamaCppEngine, data: np.ndarray, rows: int) -> np.ndarray:
    """All outputs of a session that is fed so many rows at a time."""
    engine.close(1)
    starts = range(0, len(data), rows)
    parts = [data[start : start + rows] for start in starts]
    batches = zip(starts, parts, strict=True)
    return np.concatenate(
        [engine.forward([Segment(1, start, part, engine.span.last, len(part))])[0] for start, part in batches]
    )


def through_wire(rows: np.ndarray, form: RowFormat) -> np.ndarray:
    payload = pack_rows(rows, form)
    return np.array(unpack_rows(memoryview(payload), *rows.shape, form))


def compare(
    model: Path, parts: int, sessions: list[np.ndarray], form: RowFormat, folder: Path, rounded: bool
) -> Errors:
    """rounded: the other one gets f16 rows: it shows what a last bit becomes, where both layouts compute the same."""
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


def _scores_errors(one: np.ndarray, other: np.ndarray) -> Iterator[float]:
    """As audits compare them: the second one is also asked for what the first one named."""
    for mine, theirs in zip(one, other, strict=True):
        named = best_candidates(mine, TOP, ())
        yield scores_error(named, best_candidates(theirs, TOP, named[0].tolist()), TOP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--model", type=Path, default=None)
    arguments = parser.parse_args()
    begin()
    path = arguments.model or demo_model()
    tokenizer = open_tokenizer(path)
    text = tokenizer.encode(TEXT.read_text(), special=False, bos=False)
    random = np.random.default_rng(0).integers(256, tokenizer.vocabulary, max(0, arguments.tokens - len(text)))
    tokens = np.array([*text, *random.tolist()][: arguments.tokens], np.int32)
    sessions = [tokens[start : start + SESSION_TOKENS] for start in range(0, len(tokens), SESSION_TOKENS)]
    table, figures = [], list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {path.stem: path, **{kind: requantized(path, number, folder) for kind, number in KINDS.items()}}
        for kind, model in models.items():
            for parts in (3, 2):
                for form, rounded in ((RowFormat.F32, False), (RowFormat.F16, False), (RowFormat.F32, True)):
                    errors = compare(model, parts, sessions, form, folder, rounded)
                    shares = [float(np.percentile(errors.hidden, share)) for share in (50, 99.9, 100)]
                    scores = [float(np.percentile(errors.logprob, share)) for share in (50, 99.9, 100)]
                    shown = [f"{value:.4f}" for value in (*shares, *scores)]
                    wire = "f16 for one" if rounded else form
                    table.append((kind, open_model(model).layers // parts, wire, len(errors.hidden), *shown))
                    figures.append({"model": kind, "parts": parts, "rows": wire, "hidden": shares, "logprob": scores})
                    print(table[-1], flush=True)
    print_table(
        ("weights", "layers", "wire", "rows", "hidden p50", "p99.9", "most", "log-prob. p50", "p99.9", "most"), table
    )
    print_json("calibrate", figures=figures)


if __name__ == "__main__":
    main()
