"""The tax of a swarm: tokens/s of one stream through node processes over tokens/s of the unsplit engine.

    python benchmarks/tax.py [--nodes 1 2 3 5] [--threads 2] [--tokens 192] [--rounds 3] [--plain]

Both run in turns in one go with the same threads, library and weight layout, so that only their ratio matters.
Every answer is compared with the unsplit engine's.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from common import (
    Engines,
    Prompts,
    ask_in_turn,
    ask_whole,
    begin,
    check_answers,
    forbid_optimised,
    print_aim,
    print_json,
    print_table,
    temporary_cache,
)
from potluck.local import LocalSwarm, demo_model
from potluck.models.sources import cache_folder, open_model
from potluck.node.hardware import physical_cores
from potluck.types import Span, even_spans

PROMPT = 30


def one_round(
    swarm: LocalSwarm, model: str, nodes: int, prompts: Prompts, engine: Engines, tokens: int
) -> dict[str, Any]:
    """Seconds a token of the unsplit engine and of the swarm, and at the median as a streaming client sees them.

    Of the swarm: of a long answer less a short one, so that the prompt does not count.
    """
    long, short, streamed = prompts.take(3, PROMPT)
    alone = engine.answer([long], tokens + 1)
    long_s, long_text = ask_whole(swarm.url, model, long, tokens + 1)
    short_s, short_text = ask_whole(swarm.url, model, short, 1)
    [stream] = ask_in_turn(swarm.url, model, [streamed], tokens + 1)
    expected = [*alone.texts, *engine.alone([short], 1), *engine.alone([streamed], tokens + 1)]
    check_answers([long_text, short_text, stream.text], expected, f"{nodes} nodes")
    unsplit_s, split_s = statistics.fmean(alone.step_s), (long_s - short_s) / tokens
    return {
        "nodes": nodes,
        "unsplit_s": unsplit_s,
        "split_s": split_s,
        "streamed_median_s": statistics.median(stream.gaps),
        "ratio": unsplit_s / split_s,
        "hop_s": (split_s - unsplit_s) / nodes,
    }


def print_rounds(rounds: list[dict[str, Any]]) -> None:
    print_table(
        ["nodes", "unsplit tokens/s", "ms", "swarm tokens/s", "ms", "streamed ms", "ratio", "µs a node"],
        [
            [
                one["nodes"],
                f"{1 / one['unsplit_s']:.1f}",
                f"{1e3 * one['unsplit_s']:.2f}",
                f"{1 / one['split_s']:.1f}",
                f"{1e3 * one['split_s']:.2f}",
                f"{1e3 * one['streamed_median_s']:.2f}",
                f"{one['ratio']:.3f}",
                f"{1e6 * one['hop_s']:.0f}",
            ]
            for one in rounds
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="without optimised weight layouts")
    options = parser.parse_args()
    path = options.model or demo_model()
    manifest = open_model(path)
    prompts, rounds = Prompts(manifest.vocabulary), []
    begin()
    whole = [Span(0, manifest.layers - 1)]
    with temporary_cache(), Engines(path, whole, options.threads, extra_buffers=not options.plain) as engine:
        engine.answer(prompts.take(1, PROMPT), 8)  # everything has run once
        for nodes in options.nodes:
            if options.plain:
                forbid_optimised(path, nodes, cache_folder())
            spans, join = even_spans(manifest.layers, nodes), ["--threads", str(options.threads)]
            with LocalSwarm(path, spans, serve=["--local"], join=join) as swarm:
                model = swarm.wait_covered()["model"]
                ask_in_turn(swarm.url, model, prompts.take(1, PROMPT), 8)
                for _ in range(options.rounds):
                    rounds.append(one_round(swarm, model, nodes, prompts, engine, options.tokens))
    print_rounds(rounds)
    ratios = {
        nodes: statistics.median(one["ratio"] for one in rounds if one["nodes"] == nodes) for nodes in options.nodes
    }
    aimed = {
        str(nodes): print_aim(f"{nodes} nodes, median ratio", ratio, at_least=0.85) for nodes, ratio in ratios.items()
    }
    print_json(
        "tax",
        model=manifest.name,
        threads=options.threads,
        layout="plain" if options.plain else "optimised",
        tokens=options.tokens,
        rounds=rounds,
        ratios=aimed,
        answers_equal=True,
    )


if __name__ == "__main__":
    main()
