"""What it takes to forget wrong guesses: many sessions with keys and values as large as GPT-NeoX-20B's, in one engine.

    python benchmarks/truncate.py [--streams 16] [--tokens 1000] [--layers 11] [--wrong 4] [--rounds 10]

In each round every session computes some rows in one batch and forgets them again. Slots are what sessions have as a
rule. One more session, which is longer than a slot, makes all of them share the cells. The model is made up, with heads
as NeoX has them, and is narrow otherwise.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench.geometries import MODELS
from bench.made_up import write_made_up
from bench.record import Figure, Measure, below
from bench.report import Report, options_parser
from bench.rounds import percentile
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.node.hardware import physical_cores
from potluck.platform import usable_cores
from potluck.types import MAX_STEP_ROWS, Attention, Capacity, Span

NARROW = MODELS["Llama-3-8B"]._replace(
    hidden=256, heads=48, kv_heads=48, head=128, feed_forward=256, vocabulary=512, context=1 << 16
)
P50, P95 = Measure("forgetting p50", "ms"), Measure("forgetting p95", "ms")
STATE = Measure("a session's bytes", "MiB")
AIM_MS = 1.0


@contextmanager
def engine_of(options: argparse.Namespace) -> Iterator[LlamaCppEngine]:
    """An engine whose slots have room for a session each, and for the longer one beside them where cells are shared."""
    sessions = options.streams + 1
    with tempfile.TemporaryDirectory(prefix="potluck-truncate-") as folder:
        path = Path(folder) / "model.gguf"
        write_made_up(path, NARROW._replace(layers=options.layers))
        engine = LlamaCppEngine(
            path,
            span=Span(0, options.layers - 1),
            layers=options.layers,
            attention=Attention.EXACT,
            capacity=Capacity(sessions, sessions * (options.tokens * 3 // 2), MAX_STEP_ROWS),
            threads=options.threads,
        )
    engine.use_cores(usable_cores()[: options.threads])
    yield engine
    engine.rest()
    engine.unload()


def fill(engine: LlamaCppEngine, session: int, length: int) -> None:
    """Let the session hold so many positions."""
    tokens = (np.arange(length) * 7919 % engine.vocabulary).astype(np.int32)
    for position in range(engine.length(session), length, MAX_STEP_ROWS):
        engine.forward([Segment(session, position, tokens[position : position + MAX_STEP_ROWS], engine.span.last)])


def measure(engine: LlamaCppEngine, options: argparse.Namespace) -> list[float]:
    """The seconds of each time that a session forgot."""
    seconds = []
    wrong = np.arange(options.wrong, dtype=np.int32)
    for _ in range(options.rounds):
        engine.forward([Segment(one, options.tokens, wrong, engine.span.last) for one in range(options.streams)])
        for session in range(options.streams):
            start = time.perf_counter()
            engine.truncate(session, options.tokens)
            seconds.append(time.perf_counter() - start)
    return seconds


def both(options: argparse.Namespace) -> tuple[dict[str, list[float]], int]:
    """The times in slots and in shared cells, and the bytes of a session."""
    with engine_of(options) as engine:
        fill(engine, 0, options.tokens)
        state = engine.export(0)
        for session in range(1, options.streams + 1):  # what they hold does not matter
            engine.restore(session, state)
        times = {"slots": measure(engine, options)}
        fill(engine, options.streams, engine.capacity.positions // options.streams)
        return times | {"shared cells": measure(engine, options)}, len(state)


def figures_of(times: dict[str, list[float]], nbytes: int) -> list[Figure]:
    return [
        figure
        for case, seconds in times.items()
        for figure in (
            P50.of(case, 1e3 * percentile(seconds, 50)),
            P95.of(case, 1e3 * percentile(seconds, 95), below(AIM_MS)),
            STATE.of(case, nbytes / (1 << 20)),
        )
    ]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=11)
    parser.add_argument("--wrong", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    report = Report("truncate", options)
    times, nbytes = both(options)
    heading = f"{options.streams} sessions of {options.tokens:,}, in"
    report.add({heading: figures_of(times, nbytes)})
    report.finish()


if __name__ == "__main__":
    main()
