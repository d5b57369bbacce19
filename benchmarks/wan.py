"""A swarm whose nodes are far away: tokens/s of one stream and of many, against what delays and computing allow.

    python benchmarks/wan.py [--delay 25] [--jitter 2] [--mbit 20] [--nodes 2] [--streams 16] [--tokens 48]

Every node's link passes through a proxy that delays, jitters and narrows it, each way. The same swarm is measured
with the proxies idle ("near") and then at work ("far"). The model: a token takes what it took near, and for every
stage two delays and twice the time that a row needs to pass.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack
from pathlib import Path

from common import (
    Engines,
    Prompts,
    SlowLink,
    Stream,
    add_pinned_nodes,
    ask_together,
    balanced_spans,
    begin,
    check_answers,
    percentile,
    print_aim,
    print_json,
    print_table,
    temporary_cache,
    tokens_per_s,
)
from potluck.local import LocalSwarm, demo_model
from potluck.models.sources import open_model
from potluck.types import RowFormat, Span
from potluck.wire.rows import payload_size

PROMPT = 16


def figures_of(streams: list[Stream]) -> dict[str, float]:
    gaps = [gap for stream in streams for gap in stream.gaps]
    return {
        "tokens_per_s": tokens_per_s(streams),
        "first_p50_s": percentile([stream.first_s for stream in streams], 50),
        "gap_p50_s": percentile(gaps, 50),
        "gap_p95_s": percentile(gaps, 95),
        "gap_mean_s": statistics.fmean(gaps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--delay", type=float, default=25.0, help="ms each way")
    parser.add_argument("--jitter", type=float, default=2.0, help="ms more or less")
    parser.add_argument("--mbit", type=float, default=20.0, help="Mbit/s each way")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    path = options.model or demo_model()
    manifest = open_model(path)
    prompts = Prompts(manifest.vocabulary)
    delay_s, bits_per_s = options.delay / 1e3, options.mbit * 1e6
    begin()
    rounds: dict[str, list[dict[str, float]]] = {}
    with ExitStack() as stack:
        stack.enter_context(temporary_cache())
        swarm = stack.enter_context(LocalSwarm(path, [], serve=["--local", "--rows", "f32"]))
        links = [SlowLink(swarm.url) for _ in range(options.nodes)]
        urls = [link.url for link in links]
        model = add_pinned_nodes(swarm, path, balanced_spans(manifest.layers, options.nodes), urls)["model"]
        unsplit = stack.enter_context(Engines(path, [Span(0, manifest.layers - 1)], 1))
        ask_together(swarm.url, model, prompts.take(4, PROMPT), 8)  # everything has run once
        for _ in range(options.rounds):
            for place in ("near", "far"):
                for link in links:
                    link.delay_s = delay_s if place == "far" else 0.0
                    link.jitter_s = options.jitter / 1e3 if place == "far" else 0.0
                    link.bits_per_s = bits_per_s if place == "far" else float("inf")
                for count in (1, options.streams):
                    asked = prompts.take(count, PROMPT)
                    alone = unsplit.alone(asked, options.tokens)
                    streams = ask_together(swarm.url, model, asked, options.tokens)
                    check_answers([stream.text for stream in streams], alone, f"{count} streams {place}")
                    rounds.setdefault(f"{place}, {count} streams", []).append(figures_of(streams))
    figures = {
        name: {key: statistics.median(one[key] for one in ones) for key in ones[0]} for name, ones in rounds.items()
    }
    single, many = "1 streams", f"{options.streams} streams"
    delays = 2 * options.nodes * delay_s
    passing = 8 * payload_size(1, manifest.hidden_size, RowFormat.F32) * 2 * (options.nodes - 1) / bits_per_s
    predicted = figures[f"near, {single}"]["gap_mean_s"] + delays + passing
    measured = figures[f"far, {single}"]["gap_mean_s"]
    bound = min(options.streams / predicted, figures[f"near, {many}"]["tokens_per_s"])
    print_table(
        ["", "tokens/s", "first token p50", "between p50", "p95", "mean"],
        [
            [name, f"{one['tokens_per_s']:.1f}", *(f"{1e3 * one[key]:.1f} ms" for key in list(one)[1:])]
            for name, one in figures.items()
        ],
    )
    print(
        f"model: {1e3 * figures[f'near, {single}']['gap_mean_s']:.1f} ms near + {1e3 * delays:.0f} ms of delays + "
        f"{1e3 * passing:.1f} ms of passing = {1e3 * predicted:.1f} ms a token; measured {1e3 * measured:.1f} ms "
        f"({measured / predicted:.3f} of it). {options.streams} streams: at most {bound:.1f} tokens/s."
    )
    over = [
        far_many["tokens_per_s"] / far_one["tokens_per_s"]
        for far_many, far_one in zip(rounds[f"far, {many}"], rounds[f"far, {single}"], strict=True)
    ]
    ratio = print_aim(f"{options.streams} streams over one, far", statistics.median(over), at_least=10)
    print_json(
        "wan",
        model=manifest.name,
        nodes=options.nodes,
        delay_ms=options.delay,
        jitter_ms=options.jitter,
        mbit_per_s=options.mbit,
        tokens=options.tokens,
        prompt=PROMPT,
        figures=figures,
        rounds=rounds,
        token_predicted_s=predicted,
        token_measured_s=measured,
        measured_over_predicted=measured / predicted,
        many_bound_tokens_per_s=bound,
        ratios={"many_over_one": ratio},
        answers_equal=True,
    )


if __name__ == "__main__":
    main()
