"""Many streams through two nodes of one core each: tokens/s of all, time to the first token, time between tokens.

    python benchmarks/throughput.py [--streams 1 2 4 8 16] [--tokens 64] [--prompt 16] [--rounds 1]

The same prompts' answers come, in turns in one go, from
- the two nodes, asked one stream at a time ("one at a time": neither batching nor pipelining);
- "convoy": both nodes' spans in one process with one thread on one core, all streams in one batch, first through
  one span and then through the other. This is what batching without overlap gives, less wire and coordinator;
- "unsplit": the whole model in one process with a thread for each of the two cores, all streams in one batch.
Nodes, coordinator, client and engines run on the same machine; engines compute only while the swarm rests.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack
from pathlib import Path

from common import (
    Answers,
    Engines,
    Prompts,
    Stream,
    add_pinned_nodes,
    ask_in_turn,
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
from potluck.types import Span

NODES = 2
Figures = dict[str, float]


def decode_tokens_per_s(streams: list[Stream]) -> float:
    """While all streams have their first token and none its last; of streams in turn, of each."""
    begin_s = max(stream.moments[0] for stream in streams)
    end_s = min(stream.moments[-1] for stream in streams)
    if begin_s < end_s:
        return sum(begin_s < moment <= end_s for one in streams for moment in one.moments) / (end_s - begin_s)
    gaps = [gap for stream in streams for gap in stream.gaps]
    return 1 / statistics.fmean(gaps)


def of_streams(streams: list[Stream]) -> Figures:
    first = [stream.first_s for stream in streams]
    gaps = [gap for stream in streams for gap in stream.gaps]
    return {
        "tokens_per_s": tokens_per_s(streams),
        "decode_tokens_per_s": decode_tokens_per_s(streams),
        "first_p50_s": percentile(first, 50),
        "first_p95_s": percentile(first, 95),
        "gap_p50_s": percentile(gaps, 50),
        "gap_p95_s": percentile(gaps, 95),
    }


def of_engine(answers: Answers) -> Figures:
    return {
        "tokens_per_s": answers.tokens_per_s,
        "decode_tokens_per_s": len(answers.ids) / statistics.fmean(answers.step_s),
        "first_p50_s": answers.first_s,
        "first_p95_s": answers.first_s,
        "gap_p50_s": percentile(answers.step_s, 50),
        "gap_p95_s": percentile(answers.step_s, 95),
    }


def one_round(
    swarm: LocalSwarm, model: str, prompts: Prompts, engines: tuple[Engines, Engines], options: argparse.Namespace
) -> dict[str, Figures]:
    """Figures by the name of the row."""
    convoy, unsplit = engines
    most, tokens = max(options.streams), options.tokens
    figures = {}

    asked = prompts.take(most, options.prompt)
    alone = unsplit.alone(asked, tokens)
    streams = ask_in_turn(swarm.url, model, asked, tokens)
    check_answers([stream.text for stream in streams], alone, "one at a time")
    figures["one at a time"] = of_streams(streams)

    for count in options.streams:
        asked = prompts.take(count, options.prompt)
        alone = unsplit.alone(asked, tokens)
        streams = ask_together(swarm.url, model, asked, tokens)
        check_answers([stream.text for stream in streams], alone, f"{count} streams")
        figures[f"{count} streams"] = of_streams(streams)

    asked = prompts.take(most, options.prompt)
    alone = unsplit.alone(asked, tokens)
    for name, engine in (("convoy", convoy), ("unsplit", unsplit)):
        answers = engine.answer(asked, tokens)
        check_answers(answers.texts, alone, name)
        figures[f"{name}, {most} streams"] = of_engine(answers)
    return figures


def median_figures(rounds: list[dict[str, Figures]]) -> dict[str, Figures]:
    return {
        name: {key: statistics.median(one[name][key] for one in rounds) for key in rounds[0][name]}
        for name in rounds[0]
    }


def ratio(rounds: list[dict[str, Figures]], name: str, other: str, key: str) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(one[name][key] / one[other][key] for one in rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=16, help="tokens of each prompt")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    path = options.model or demo_model()
    manifest = open_model(path)
    spans, whole = balanced_spans(manifest.layers, NODES), [Span(0, manifest.layers - 1)]
    most = max(options.streams)
    prompts = Prompts(manifest.vocabulary)
    begin()
    with ExitStack() as stack:
        stack.enter_context(temporary_cache())
        swarm = stack.enter_context(LocalSwarm(path, [], serve=["--local"]))
        model = add_pinned_nodes(swarm, path, spans)["model"]
        convoy = stack.enter_context(Engines(path, spans, 1, most))
        unsplit = stack.enter_context(Engines(path, whole, NODES, most))
        ask_together(swarm.url, model, prompts.take(4, 16), 8)  # everything has run once
        rounds = [one_round(swarm, model, prompts, (convoy, unsplit), options) for _ in range(options.rounds)]
    figures = median_figures(rounds)
    print_table(
        ["", "tokens/s", "prompts apart", "first token p50", "p95", "between p50", "p95"],
        [
            [
                name,
                *(f"{one[key]:.1f}" for key in ("tokens_per_s", "decode_tokens_per_s")),
                *(f"{1e3 * one[key]:.1f} ms" for key in list(one)[2:]),
            ]
            for name, one in figures.items()
        ],
    )
    print("Convoy: both spans in one process, one thread on one core, one batch, one span after the other; no wire.")
    swarmed = f"{most} streams"
    ratios = {}
    for other, aim in (("one at a time", 4), (f"convoy, {swarmed}", 1.35), (f"unsplit, {swarmed}", 0.8)):
        for key, what in (("tokens_per_s", ""), ("decode_tokens_per_s", ", prompts apart")):
            name = f"{swarmed} over {other}{what}"
            ratios[name] = print_aim(name, ratio(rounds, swarmed, other, key), at_least=aim)
    print_json(
        "throughput",
        model=manifest.name,
        nodes=NODES,
        threads_a_node=1,
        tokens=options.tokens,
        prompt=options.prompt,
        figures=figures,
        rounds=rounds,
        ratios=ratios,
        llama_server="not measured",
        answers_equal=True,
    )


if __name__ == "__main__":
    main()
