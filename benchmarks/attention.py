"""What `--attention fast` gains: SmolLM2 in one engine, with the exact cache (q8_0) and with the fast one (f16).

    python benchmarks/attention.py [--threads 2] [--prompt 2048] [--streams 16] [--rounds 3]

Both run in turns in one go. Fast attention's bits depend on batches and threads, so no answers are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from common import begin, print_json, print_table
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.local import demo_model
from potluck.models.sources import open_model
from potluck.node.hardware import physical_cores, usable_cores
from potluck.types import MAX_STEP_ROWS, Attention, Capacity, Span

DECODES = 16


def prefill_s(engine: LlamaCppEngine, length: int, session: int = 0) -> float:
    """Seconds of a prompt in steps as nodes get them."""
    tokens = (np.arange(length) * 7919 % engine.vocabulary).astype(np.int32)
    start = time.perf_counter()
    for position in range(0, length, MAX_STEP_ROWS):
        engine.forward([Segment(session, position, tokens[position : position + MAX_STEP_ROWS], engine.span.last)])
    return time.perf_counter() - start


def decode_s(engine: LlamaCppEngine, sessions: int, length: int) -> float:
    """Median seconds of a batch with one row of each session, each of which holds so many positions."""
    seconds = []
    for step in range(DECODES):
        batch = [Segment(one, length + step, np.array([one], np.int32), engine.span.last, 1) for one in range(sessions)]
        start = time.perf_counter()
        engine.forward(batch)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def one_round(engine: LlamaCppEngine, prompt: int, streams: int) -> dict[str, float]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    begin()
    path = demo_model()
    layers = open_model(path).layers
    capacity = Capacity(arguments.streams, 2 * arguments.prompt + DECODES * arguments.streams, MAX_STEP_ROWS)
    rounds: dict[Attention, list[dict[str, float]]] = {Attention.EXACT: [], Attention.FAST: []}
    for _ in range(arguments.rounds):
        for attention, times in rounds.items():
            engine = LlamaCppEngine(
                path,
                span=Span(0, layers - 1),
                layers=layers,
                attention=attention,
                capacity=capacity,
                threads=arguments.threads,
            )
            engine.use_cores(usable_cores()[: arguments.threads])
            times.append(one_round(engine, arguments.prompt, arguments.streams))
            engine.rest()
            engine.unload()
    medians = {
        attention: {key: statistics.median(one[key] for one in times) for key in times[0]}
        for attention, times in rounds.items()
    }
    names = {
        "prefill_s": f"prompt of {arguments.prompt} tokens",
        "one_stream_s": f"a token of one stream, {arguments.prompt} tokens held",
        "streams_s": f"a token of {arguments.streams} streams, the same in all",
    }
    exact, fast = medians[Attention.EXACT], medians[Attention.FAST]
    table = [
        (name, f"{exact[key]:.4f} s", f"{fast[key]:.4f} s", f"{exact[key] / fast[key]:.2f}")
        for key, name in names.items()
    ]
    print_table(("", "exact", "fast", "times as fast"), table)
    print_json("attention", exact=exact, fast=fast, gain={key: exact[key] / fast[key] for key in exact})


if __name__ == "__main__":
    main()
