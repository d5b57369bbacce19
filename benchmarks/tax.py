"""The tax of a swarm: tokens/s of one stream through node processes over tokens/s of the unsplit engine.

    python benchmarks/tax.py [--nodes 3] [--threads 2] [--tokens 192] [--rounds 3] [--plain]

Both run in turns in one go with the same threads, library and weight layout, so that only their ratio matters.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np

from potluck.local import LocalSwarm, demo_model
from potluck.models.sources import cache_folder, local_source, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import plan_span, span_file_name
from potluck.node.hardware import physical_cores
from potluck.types import Attention, Capacity, Span, even_spans

if TYPE_CHECKING:  # the engine is imported late: OpenMP reads its settings then
    from potluck.engine.llamacpp import LlamaCppEngine

PROMPT = "Write a long story about a lighthouse keeper who learns to cook for a whole village."


def load_whole(path: Path, threads: int, folder: Path, extra_buffers: bool) -> LlamaCppEngine:
    from potluck.engine.llamacpp import LlamaCppEngine

    manifest = open_model(path)
    span = Span(0, manifest.layers - 1)
    file = folder / "whole.gguf"
    write_span_file(file, *plan_span(manifest, span), local_source(path), lambda _: None)
    return LlamaCppEngine(
        file,
        span=span,
        layers=manifest.layers,
        attention=Attention.EXACT,
        capacity=Capacity(1, 4096, 576),
        threads=threads,
        extra_buffers=extra_buffers,
    )


def forbid_optimised(path: Path, nodes: int) -> None:
    """Note in the cache that only the plain layout survived here, which nodes then believe."""
    from potluck.node.loading import verdict_path

    manifest = open_model(path)
    for span in even_spans(manifest.layers, nodes):
        verdict = verdict_path(cache_folder() / span_file_name(manifest, span))
        verdict.parent.mkdir(parents=True, exist_ok=True)
        verdict.write_text("plain")


def unsplit_seconds(engine: LlamaCppEngine, tokens: int) -> list[float]:
    """Seconds of each greedy decode step after a short prompt, sampling by argmax."""
    from potluck.engine.base import Segment

    data = np.arange(100, 130, dtype=np.int32)
    position, seconds = 0, []
    for _ in range(tokens + 1):
        begin = time.perf_counter()
        [logits] = engine.forward([Segment(1, position, data, engine.span.last, 1)])
        token = int(logits[0].argmax())
        seconds.append(time.perf_counter() - begin)
        position, data = position + len(data), np.array([token], np.int32)
    engine.close(1)
    return seconds[1:]


def streamed_seconds(swarm: LocalSwarm, model: str, tokens: int) -> float:
    """Median seconds between the tokens of one streamed greedy answer, as its client sees them."""
    moments = []
    with httpx.stream("POST", f"{swarm.url}/v1/completions", json=request(model, tokens, stream=True)) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                moments.append(time.perf_counter())
    return statistics.median(later - sooner for sooner, later in pairwise(moments))


def swarm_seconds(swarm: LocalSwarm, model: str, tokens: int) -> float:
    """Seconds a token of one greedy answer: a long one less a short one, so that the prompt does not count."""
    return (answer_seconds(swarm, model, tokens + 1) - answer_seconds(swarm, model, 1)) / tokens


def answer_seconds(swarm: LocalSwarm, model: str, tokens: int) -> float:
    begin = time.perf_counter()
    httpx.post(f"{swarm.url}/v1/completions", json=request(model, tokens), timeout=600.0).raise_for_status()
    return time.perf_counter() - begin


def request(model: str, tokens: int, stream: bool = False) -> dict[str, object]:
    return {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="without optimised weight layouts")
    options = parser.parse_args()
    path = options.model or demo_model()
    layers = open_model(path).layers
    ratios, shares = [], []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["POTLUCK_CACHE"] = folder
        if options.plain:
            forbid_optimised(path, options.nodes)
        spans = even_spans(layers, options.nodes)
        with LocalSwarm(path, spans, join=["--threads", str(options.threads)]) as swarm:
            status = swarm.wait_covered()
            # The unsplit engine has the machine to itself and OpenMP's own default, which is best then.
            os.environ["GOMP_SPINCOUNT"] = "300000"
            engine = load_whole(path, options.threads, Path(folder), not options.plain)
            for _ in range(options.rounds):
                alone = statistics.fmean(unsplit_seconds(engine, options.tokens))
                split = swarm_seconds(swarm, status["model"], options.tokens)
                streamed = streamed_seconds(swarm, status["model"], options.tokens)
                ratios.append(alone / split)
                shares.append((split - alone) / options.nodes)
                print(
                    f"unsplit {1 / alone:6.1f} tokens/s ({1e3 * alone:.2f} ms)   "
                    f"{options.nodes} nodes {1 / split:6.1f} tokens/s ({1e3 * split:.2f} ms)   "
                    f"ratio {ratios[-1]:.3f}   {1e6 * shares[-1]:.0f} µs a hop   "
                    f"streamed to a client {1 / streamed:6.1f} tokens/s ({alone / streamed:.3f})",
                    flush=True,
                )
    print(f"median ratio {statistics.median(ratios):.3f}, {1e6 * statistics.median(shares):.0f} µs a hop")


if __name__ == "__main__":
    main()
