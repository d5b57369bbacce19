"""What sessions that a node holds cost those that run: the time of a batch of eight rows beside few and many others.

    python benchmarks/sessions.py [--cases 16x1000 64x250] [--batches 10] [--rounds 3]

Two engines of a node, with one thread on one core, have half of SmolLM2's layers each, and the room that a node has for
sessions of full length. One holds only the eight sessions that run. The other holds as many as a case says, all of the
same length, and in turns eight of them run, so that all of them have a token before one has the next, as on a busy
route of several stages. The two engines run in turns. What their eight rows look at is equally long.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from bench.record import Figure, Measure, below
from bench.report import Report, options_parser
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.local import demo_model
from potluck.models.sources import local_source, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import plan_span
from potluck.platform import usable_cores
from potluck.types import MAX_STEP_ROWS, Attention, Capacity, Span

ROWS = 8
FULL_SESSIONS = 8
MOST_SESSIONS = 64
"""The room of a node: eight sessions of full length, or up to 64 shorter ones."""
AIM = below(1.15)

BATCH, RATIO = Measure("batch", "ms"), Measure("over the eight alone", "ratio")


class Case(NamedTuple):
    """So many sessions of so many positions."""

    sessions: int
    positions: int

    def __str__(self) -> str:
        return f"{self.sessions} sessions of {self.positions:,}"


def case(text: str) -> Case:
    sessions, _, positions = text.partition("x")
    return Case(int(sessions), int(positions))


@contextmanager
def node_engine() -> Iterator[LlamaCppEngine]:
    """The engine of a node with the first half of the layers, on one core."""
    path = demo_model()
    manifest = open_model(path)
    span = Span(0, manifest.layers // 2 - 1)
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        process.cpu_affinity(usable_cores()[:1])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "span.gguf"
        write_span_file(file, *plan_span(manifest, span), local_source(path), lambda _: None)
        engine = LlamaCppEngine(
            file,
            span=span,
            layers=manifest.layers,
            attention=Attention.EXACT,
            capacity=Capacity(MOST_SESSIONS, FULL_SESSIONS * manifest.context, MAX_STEP_ROWS),
            threads=1,
        )
        try:
            yield engine
        finally:
            engine.unload()


def feed(engine: LlamaCppEngine, sessions: Sequence[int], positions: int) -> None:
    tokens = (np.arange(positions) * 7919 % engine.vocabulary).astype(np.int32)
    for session in sessions:
        for begin in range(0, positions, MAX_STEP_ROWS):
            part = tokens[begin : begin + MAX_STEP_ROWS]
            engine.forward([Segment(session, begin, part, engine.span.last)])


def groups_of(sessions: int) -> list[range]:
    return [range(first, first + ROWS) for first in range(0, sessions, ROWS)]


def batch_s(engine: LlamaCppEngine, group: Sequence[int]) -> float:
    """The seconds of a batch with one row of each of these sessions."""
    batch = [Segment(one, engine.length(one), np.array([one], np.int32), engine.span.last) for one in group]
    begin = time.perf_counter()
    engine.forward(batch)
    return time.perf_counter() - begin


def one_round(few: LlamaCppEngine, many: LlamaCppEngine, one: Case, batches: int) -> tuple[float, float]:
    """The median seconds of a batch on a node that holds only eight sessions, and on one that holds all of them.

    The two run in turns, because other programs of the machine come and go.
    """
    groups = groups_of(one.sessions)
    feed(few, range(ROWS), one.positions)
    feed(many, range(one.sessions), one.positions)
    for group in groups:  # the first time around, sessions are laid together
        batch_s(many, group)
    batch_s(few, range(ROWS))
    seconds = [(batch_s(few, range(ROWS)), batch_s(many, group)) for group in islice(cycle(groups), batches)]
    for session in range(one.sessions):
        few.close(session)
        many.close(session)
    few_s, many_s = zip(*seconds, strict=True)
    return statistics.median(few_s), statistics.median(many_s)


def figures_of(one: Case, rounds: Sequence[tuple[float, float]]) -> list[Figure]:
    few = Case(ROWS, one.positions)
    return [
        BATCH.of(f"{few}", [1e3 * few_s for few_s, _ in rounds]),
        BATCH.of(f"{one}", [1e3 * many_s for _, many_s in rounds]),
        RATIO.of(f"{one}", [many_s / few_s for few_s, many_s in rounds], AIM),
    ]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--cases", nargs="+", default=["16x1000", "64x250"], help="sessions x positions")
    parser.add_argument("--batches", type=int, default=24, help="batches whose median counts")
    parser.add_argument("--rounds", type=int, default=3)
    options: argparse.Namespace = parser.parse_args()
    cases = [case(text) for text in options.cases]
    report = Report("sessions", options)
    with node_engine() as few, node_engine() as many:
        rounds = {one: [one_round(few, many, one, options.batches) for _ in range(options.rounds)] for one in cases}
    report.add({"batch of eight rows": [figure for one in cases for figure in figures_of(one, rounds[one])]})
    report.finish(rounds={str(one): values for one, values in rounds.items()})


if __name__ == "__main__":
    main()
