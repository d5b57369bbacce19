"""Many streams through two nodes of one core each: their speed, their first tokens and the time between tokens.

    python benchmarks/throughput.py [--streams 1 2 4 8 16] [--tokens 64] [--prompt 16] [--rounds 1]

Several ways to answer are measured in turns within one run:
- "one at a time": the two nodes get one stream at a time, so there is neither batching nor pipelining.
- "streams": the two nodes get so many streams at once.
- "convoy": the spans of both nodes run in one process with one thread on one core. All streams form one batch, which
  passes through one span and then through the other. This is batching without overlap, wire or coordinator.
- "unsplit": the whole model runs in one process with a thread for each of the two cores. All streams form one batch.
Nodes, coordinator, client and engines run on the same machine. Engines compute only while the swarm rests.

The coordinator's trace says how many rows a batch of the swarm had on average, and how many could have run together:
each stage's share of the streams that were generating.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.engines import Answers, Engines
from bench.prompts import Prompts
from bench.record import Aim, Figure, Measure, at_least
from bench.report import Report, options_parser
from bench.rounds import Values, medians, percentile
from bench.streams import Stream, all_gaps, ask_in_turn, ask_together, check_answers, tokens_per_s
from bench.swarms import add_pinned_nodes, balanced_spans, temporary_cache
from bench.tables import counted
from bench.traces import batches_since, hops_so_far
from potluck.local import LocalSwarm, demo_model
from potluck.models.manifest import Manifest
from potluck.models.sources import open_model
from potluck.types import Span

NODES = 2

COLUMNS = {
    "tokens_per_s": (Measure("tokens/s", "tokens/s"), 1),
    "decode_tokens_per_s": (Measure("all at work", "tokens/s"), 1),
    "first_p50_s": (Measure("first p50", "ms"), 1e3),
    "first_p95_s": (Measure("first p95", "ms"), 1e3),
    "gap_p50_s": (Measure("between p50", "ms"), 1e3),
    "gap_p95_s": (Measure("between p95", "ms"), 1e3),
}
"""The measure of each value, and what the value is multiplied by for it."""

ROWS, SHARE = Measure("rows a batch", "count"), Measure("could run together", "count")
FULL = Measure("how full", "ratio")

RATIOS = {"tokens_per_s": Measure("ratio", "ratio"), "decode_tokens_per_s": Measure("all at work", "ratio")}


def decode_tokens_per_s(streams: list[Stream]) -> float:
    """The speed while all streams have their first token and none its last; for streams in turn, that of each."""
    begin_s = max(stream.moments[0] for stream in streams)
    end_s = min(stream.moments[-1] for stream in streams)
    if begin_s < end_s:
        return sum(begin_s < moment <= end_s for one in streams for moment in one.moments) / (end_s - begin_s)
    return 1 / statistics.fmean(all_gaps(streams))


def of_streams(streams: list[Stream]) -> Values:
    first = [stream.first_s for stream in streams]
    gaps = all_gaps(streams)
    return {
        "tokens_per_s": tokens_per_s(streams),
        "decode_tokens_per_s": decode_tokens_per_s(streams),
        "first_p50_s": percentile(first, 50),
        "first_p95_s": percentile(first, 95),
        "gap_p50_s": percentile(gaps, 50),
        "gap_p95_s": percentile(gaps, 95),
    }


def of_engine(answers: Answers) -> Values:
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
) -> dict[str, Values]:
    """The values of each case, by its name."""
    convoy, unsplit = engines
    most, tokens = max(options.streams), options.tokens
    values = {}

    asked = prompts.take(most, options.prompt)
    alone = unsplit.alone(asked, tokens)
    streams = ask_in_turn(swarm.url, model, asked, tokens)
    check_answers([stream.text for stream in streams], alone, "one at a time")
    values["one at a time"] = of_streams(streams)

    for count in options.streams:
        asked = prompts.take(count, options.prompt)
        alone = unsplit.alone(asked, tokens)
        begun = hops_so_far(swarm.url)
        streams = ask_together(swarm.url, model, asked, tokens)
        check_answers([stream.text for stream in streams], alone, f"{count} streams")
        batches = batches_since(swarm.url, begun)
        values[counted(count, "stream")] = {**of_streams(streams), "rows": batches.rows, "share": batches.share}

    asked = prompts.take(most, options.prompt)
    alone = unsplit.alone(asked, tokens)
    for name, engine in (("convoy", convoy), ("unsplit", unsplit)):
        answers = engine.answer(asked, tokens)
        check_answers(answers.texts, alone, name)
        values[f"{name}, {counted(most, 'stream')}"] = of_engine(answers)
    return values


def measure(manifest: Manifest, options: argparse.Namespace) -> list[dict[str, Values]]:
    """The values of each round."""
    spans, whole = balanced_spans(options.model, NODES), [Span(0, manifest.layers - 1)]
    most = max(options.streams)
    prompts = Prompts(manifest.vocabulary)
    with ExitStack() as stack:
        stack.enter_context(temporary_cache())
        swarm = stack.enter_context(LocalSwarm(options.model, [], serve=["--local"]))
        model = add_pinned_nodes(swarm, options.model, spans)["model"]
        convoy = stack.enter_context(Engines(options.model, spans, 1, most))
        unsplit = stack.enter_context(Engines(options.model, whole, NODES, most))
        ask_together(swarm.url, model, prompts.take(4, 16), 8)  # everything has run once
        return [one_round(swarm, model, prompts, (convoy, unsplit), options) for _ in range(options.rounds)]


def figures_of(rounds: Sequence[dict[str, Values]]) -> list[Figure]:
    """The medians of each case, without ranges, which would make so large a table unreadable."""
    cases = {case: medians([one[case] for one in rounds]) for case in rounds[0]}
    return [
        column.of(case, scale * values[name])
        for case, values in cases.items()
        for name, (column, scale) in COLUMNS.items()
    ]


def batch_figures(rounds: Sequence[dict[str, Values]], swarmed: str) -> list[Figure]:
    """How full the swarm's batches were, in each round. The aim is for all streams."""
    return [
        figure
        for case in rounds[0]
        if "rows" in rounds[0][case]
        for figure in (
            ROWS.of(case, [one[case]["rows"] for one in rounds]),
            SHARE.of(case, [one[case]["share"] for one in rounds]),
            FULL.of(
                case,
                [one[case]["rows"] / one[case]["share"] for one in rounds],
                at_least(0.85) if case == swarmed else None,
            ),
        )
    ]


def ratios_of(rounds: Sequence[dict[str, Values]], swarmed: str) -> list[Figure]:
    """The speed of the swarm with all streams relative to what it is compared with, in each round."""

    def over(other: str, shown: str, aim: Aim) -> list[Figure]:
        return [
            measure.of(shown, [one[swarmed][name] / one[other][name] for one in rounds], aim)
            for name, measure in RATIOS.items()
        ]

    return [
        *over("one at a time", "one at a time", at_least(4)),
        *over(f"convoy, {swarmed}", "the convoy", at_least(1.35)),
        *over(f"unsplit, {swarmed}", "the unsplit engine", at_least(0.8)),
    ]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=16, help="tokens of each prompt")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    options.model = options.model or demo_model()
    manifest = open_model(options.model)
    report = Report("throughput", options)
    rounds = measure(manifest, options)
    swarmed = counted(max(options.streams), "stream")
    report.add(
        {
            "streams": figures_of(rounds),
            f"{swarmed} relative to": ratios_of(rounds, swarmed),
            "batches of": batch_figures(rounds, swarmed),
        }
    )
    report.finish(
        model=manifest.name,
        nodes=NODES,
        threads_a_node=1,
        rounds=rounds,
        answers_equal=True,
    )


if __name__ == "__main__":
    main()
