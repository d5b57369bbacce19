"""Mixtures of experts at their real layer sizes: the time of a layer against the memory's bound.

    python benchmarks/moe.py [--layers 4] [--threads 2] [--tokens 32] [--rounds 5] [--plain]

The weights are made up, and only so many layers of each model are: the middle of it, as a node in the middle of a swarm
serves it. One token reads the weights outside of the experts, and of the experts those that its router chooses. Those
bytes over the memory's bandwidth bound its seconds from below. Eight streams in one batch read the experts that any of
their rows chooses: with random weights so many as eight rows that choose independently (21 of 32, and 52 of 128).

The bandwidth is measured in each round by `np.add.reduce` over 1 GiB of uint64, in as many threads as the engine has.
With --threads 1, both are measured in processor time, so that other programs on the machine disturb less. A model
without experts is measured for comparison. The files take some 5 GB in the temporary folder (TMPDIR), one model after
the other.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.bandwidth import bandwidth, clock_of
from bench.geometries import MODELS, Model, layer_tensors, manifest_of
from bench.made_up import write_made_up
from bench.record import Figure, Measure, below
from bench.report import Report, options_parser
from bench.tables import counted
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.models.sizes import part_sizes
from potluck.models.sources import local_source, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import plan_span
from potluck.node.hardware import physical_cores
from potluck.platform import usable_cores
from potluck.types import MAX_STEP_ROWS, Attention, Capacity, EngineKind, Quantize, Span

MEASURED = ("gpt-oss-20b", "Qwen3-30B-A3B", "Llama-3-8B")
COMPUTED = {"gpt-oss-20b": "gpt-oss-20b", "gpt-oss-120b": "gpt-oss-20b", "Qwen3-30B-A3B": "Qwen3-30B-A3B"}
"""The models that eight laptops hold, and the one whose layers were measured for it."""
STREAMS = (1, 8)
PROMPT = 64
VOCABULARY = 256
"""The span has neither embedding nor head, so that they need not be large."""

LAPTOPS, CORES, LAPTOP_BYTES_S, HOP_S = 8, 4, 50e9, 0.005
"""Assumed of a laptop: four cores as fast as those here, memory that reads 50 GB/s (two channels of DDR4-3200), and 5
ms for each relay."""

LAYER, BOUND = Measure("time", "ms"), Measure("the memory's bound", "ms")
OVER_BOUND = Measure("relative to the bound", "ratio")
READ = Measure("weights read", "MiB")
ONE, EIGHT = Measure("one stream", "tokens/s"), Measure("eight streams", "tokens/s")
AIM = 1.4


class Round(NamedTuple):
    """The seconds of a layer, and the least that reading its weights takes, for one batch of one row a stream."""

    layer_s: float
    bound_s: float

    @property
    def ratio(self) -> float:
        return self.layer_s / self.bound_s


Rounds = dict[tuple[str, int], list[Round]]
"""By model and number of streams."""


def bytes_read(model: Model, rows: int) -> float:
    """The bytes of a layer's weights that a batch of so many rows reads."""
    tensors = list(layer_tensors(model, model.layers - 1))
    experts = sum(tensor.nbytes for tensor in tensors if "_exps" in tensor.name)
    idle = (1 - model.used / model.experts) ** rows if model.experts else 0
    return sum(tensor.nbytes for tensor in tensors) - experts * idle


@contextmanager
def middle(model: Model, options: argparse.Namespace) -> Iterator[LlamaCppEngine]:
    """The engine with so many layers of the model, which are neither its first nor its last ones."""
    types = model.types._replace(embedding="Q8_0", head="Q8_0")
    small = model._replace(layers=options.layers + 3, vocabulary=VOCABULARY, types=types)
    span = Span(1, options.layers)
    with tempfile.TemporaryDirectory(prefix="potluck-moe-") as folder:
        whole, part = Path(folder) / "whole.gguf", Path(folder) / "part.gguf"
        write_made_up(whole, small)
        write_span_file(part, *plan_span(open_model(whole), span), local_source(whole), lambda _: None)
        whole.unlink()
        engine = LlamaCppEngine(
            part,
            span=span,
            layers=small.layers,
            attention=Attention.EXACT,
            capacity=Capacity(max(STREAMS), 4096, MAX_STEP_ROWS),
            threads=options.threads,
            extra_buffers=not options.plain,
        )
        part.unlink()
        try:
            yield engine
        finally:
            engine.unload()


def layer_seconds(
    engine: LlamaCppEngine, streams: int, tokens: int, threads: int, random: np.random.Generator
) -> float:
    """The median seconds of a layer in a batch with one row of each stream, after prompts of `PROMPT` rows."""

    def segment(session: int, position: int, rows: int) -> Segment:
        return Segment(
            session, position, random.standard_normal((rows, engine.hidden_size), np.float32), engine.span.last
        )

    clock = clock_of(threads)
    for session in range(streams):
        engine.forward([segment(session, 0, PROMPT)])
    seconds = []
    for position in range(PROMPT, PROMPT + tokens):
        batch = [segment(session, position, 1) for session in range(streams)]
        begin = clock()
        engine.forward(batch)
        seconds.append(clock() - begin)
    for session in range(streams):
        engine.close(session)
    return statistics.median(seconds) / len(engine.span)


def measure(options: argparse.Namespace) -> Rounds:
    random = np.random.default_rng(0)
    rounds: Rounds = {}
    for name in MEASURED:
        with middle(MODELS[name], options) as engine:
            for _ in range(options.rounds):
                speed = bandwidth(options.threads)
                engine.use_cores(usable_cores()[: options.threads])
                for streams in STREAMS:
                    taken = layer_seconds(engine, streams, options.tokens, options.threads, random)
                    one = Round(taken, bytes_read(MODELS[name], streams) / speed)
                    rounds.setdefault((name, streams), []).append(one)
                    print(
                        f"{name}, {counted(streams, 'stream')}: {1e3 * one.layer_s:.2f} ms a layer, "
                        f"bound {1e3 * one.bound_s:.2f} ms at {speed / 1e9:.1f} GB/s, ratio {one.ratio:.2f}",
                        flush=True,
                    )
                engine.rest()
    return rounds


def layer_figures(rounds: Rounds) -> list[Figure]:
    figures = []
    for (name, streams), ones in rounds.items():
        case = f"{name}, {counted(streams, 'stream')}"
        figures += [
            READ.of(case, bytes_read(MODELS[name], streams) / (1 << 20)),
            BOUND.of(case, [1e3 * one.bound_s for one in ones]),
            LAYER.of(case, [1e3 * one.layer_s for one in ones]),
            OVER_BOUND.of(case, [one.ratio for one in ones], below(AIM) if MODELS[name].experts else None),
        ]
    return figures


def swarm_figures(rounds: Rounds, threads: int) -> list[Figure]:
    """What eight laptops would give. Either the cores or the memory take the longer time. Eight streams keep all
    laptops at work, each on another stream's token.
    """
    figures = []
    for name, measured in COMPUTED.items():
        sizes = part_sizes(manifest_of(MODELS[name]), EngineKind.LLAMACPP, Quantize.NONE)
        computing = statistics.median(one.layer_s for one in rounds[measured, 1]) * threads / CORES
        layers_s = sum(max(computing, read / LAPTOP_BYTES_S) for read in sizes.active)
        token_s = layers_s + sizes.head / LAPTOP_BYTES_S + LAPTOPS * HOP_S
        figures += [ONE.of(name, 1 / token_s), EIGHT.of(name, LAPTOPS / token_s)]
    return figures


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plain", action="store_true", help="use the plain weight layout")
    options = parser.parse_args()
    report = Report("moe", options)
    rounds = measure(options)
    part = "1-thread" if options.threads == 1 else ""
    tables = {"a layer of": layer_figures(rounds), "eight laptops": swarm_figures(rounds, options.threads)}
    report.add(tables, part)
    report.finish(rounds={f"{name}, {streams}": ones for (name, streams), ones in rounds.items()})


if __name__ == "__main__":
    main()
