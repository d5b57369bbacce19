"""What `--attention fast` gains: SmolLM2 in one engine with the exact cache (q8_0) and with the fast one (f16).

    python benchmarks/attention.py [--threads 2] [--prompt 2048] [--streams 16] [--rounds 3]

Both run in turns within one run. Fast attention's bits depend on batches and threads, so no answers are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from bench.record import Figure, Measure, Unit
from bench.report import Report, options_parser
from bench.rounds import Values, medians
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.local import demo_model
from potluck.models.sources import open_model
from potluck.node.hardware import physical_cores
from potluck.platform import usable_cores
from potluck.types import MAX_STEP_ROWS, Attention, Capacity, Span

DECODES = 16

GAIN = Measure("times as fast", "ratio")

Rounds = dict[Attention, list[Values]]
"""Of each kind of attention, what each round measured."""


def prefill_s(engine: LlamaCppEngine, length: int, session: int = 0) -> float:
    """The seconds that a prompt takes in steps as nodes get them."""
    tokens = (np.arange(length) * 7919 % engine.vocabulary).astype(np.int32)
    start = time.perf_counter()
    for position in range(0, length, MAX_STEP_ROWS):
        engine.forward([Segment(session, position, tokens[position : position + MAX_STEP_ROWS], engine.span.last)])
    return time.perf_counter() - start


def decode_s(engine: LlamaCppEngine, sessions: int, length: int) -> float:
    """The median seconds of a batch with one row of each session, when each session holds so many positions."""
    seconds = []
    for step in range(DECODES):
        batch = [Segment(one, length + step, np.array([one], np.int32), engine.span.last, 1) for one in range(sessions)]
        start = time.perf_counter()
        engine.forward(batch)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def one_round(engine: LlamaCppEngine, prompt: int, streams: int) -> Values:
    long_s = prefill_s(engine, prompt)
    one_s = decode_s(engine, 1, prompt)
    engine.close(0)
    short = prompt // streams
    for session in range(streams):
        prefill_s(engine, short, session)
    many_s = decode_s(engine, streams, short)
    for session in range(streams):
        engine.close(session)
    return {"prefill_s": long_s, "one_stream_s": one_s, "streams_s": many_s}


def measure(options: argparse.Namespace) -> Rounds:
    path = demo_model()
    layers = open_model(path).layers
    capacity = Capacity(options.streams, 2 * options.prompt + DECODES * options.streams, MAX_STEP_ROWS)
    rounds: Rounds = {Attention.EXACT: [], Attention.FAST: []}
    for _ in range(options.rounds):
        for attention, values in rounds.items():
            engine = LlamaCppEngine(
                path,
                span=Span(0, layers - 1),
                layers=layers,
                attention=attention,
                capacity=capacity,
                threads=options.threads,
            )
            engine.use_cores(usable_cores()[: options.threads])
            values.append(one_round(engine, options.prompt, options.streams))
            engine.rest()
            engine.unload()
    return rounds


def figures_of(rounds: Rounds, options: argparse.Namespace) -> list[Figure]:
    cases: dict[str, tuple[str, Unit, float]] = {
        "prefill_s": (f"prompt of {options.prompt:,} tokens", "s", 1),
        "one_stream_s": (f"token of one stream that holds {options.prompt:,}", "ms", 1e3),
        "streams_s": (f"token of {options.streams} streams that together hold as many", "ms", 1e3),
    }
    exact, fast = (medians(rounds[attention]) for attention in (Attention.EXACT, Attention.FAST))
    return [
        figure
        for name, (case, unit, scale) in cases.items()
        for figure in (
            Measure("exact", unit).of(case, scale * exact[name]),
            Measure("fast", unit).of(case, scale * fast[name]),
            GAIN.of(case, exact[name] / fast[name]),
        )
    ]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    report = Report("attention", options)
    rounds = measure(options)
    report.add({"time of a": figures_of(rounds, options)})
    report.finish(rounds=rounds)


if __name__ == "__main__":
    main()
