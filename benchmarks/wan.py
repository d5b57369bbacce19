"""A swarm with distant nodes: the speed of one stream and of many against what delays and computing allow.

    python benchmarks/wan.py [--delay 25] [--jitter 2] [--mbit 20] [--nodes 2] [--streams 16] [--tokens 48]

Every node's link passes through a proxy that adds a delay and a jitter and limits the bandwidth, each way. The same
swarm is measured with the proxies idle ("near") and at work ("far"). The prediction for a far token is the time of a
near one, plus two delays for every stage, plus twice the time that a row needs to pass between two stages.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack
from pathlib import Path

from bench.engines import Engines
from bench.links import SlowLink
from bench.prompts import Prompts
from bench.record import Figure, Measure, at_least
from bench.report import Report, options_parser
from bench.rounds import Values, medians, percentile
from bench.streams import Stream, all_gaps, ask_together, check_answers, tokens_per_s
from bench.swarms import add_pinned_nodes, balanced_spans, temporary_cache
from bench.tables import counted
from potluck.local import LocalSwarm, demo_model
from potluck.models.manifest import Manifest
from potluck.models.sources import open_model
from potluck.types import RowFormat, Span
from potluck.wire.rows import payload_size

PROMPT = 16
PLACES = ("near", "far")

SPEED = Measure("tokens/s", "tokens/s")
TIMES = {
    "first_p50_s": Measure("first token p50", "ms"),
    "gap_p50_s": Measure("between tokens p50", "ms"),
    "gap_p95_s": Measure("between tokens p95", "ms"),
    "gap_mean_s": Measure("between tokens, mean", "ms"),
}
MEASURED, PREDICTED, OVER = Measure("measured", "ms"), Measure("predicted", "ms"), Measure("ratio", "ratio")

Rounds = dict[str, list[Values]]
"""Of each case, what each round measured."""


def values_of(streams: list[Stream]) -> Values:
    gaps = all_gaps(streams)
    return {
        "tokens_per_s": tokens_per_s(streams),
        "first_p50_s": percentile([stream.first_s for stream in streams], 50),
        "gap_p50_s": percentile(gaps, 50),
        "gap_p95_s": percentile(gaps, 95),
        "gap_mean_s": statistics.fmean(gaps),
    }


def case(place: str, streams: int) -> str:
    return f"{place}, {counted(streams, 'stream')}"


def put(links: list[SlowLink], place: str, options: argparse.Namespace) -> None:
    """Make the nodes near or far from now on."""
    far = place == "far"
    for link in links:
        link.delay_s = options.delay / 1e3 if far else 0.0
        link.jitter_s = options.jitter / 1e3 if far else 0.0
        link.bits_per_s = options.mbit * 1e6 if far else float("inf")


def measure(manifest: Manifest, options: argparse.Namespace) -> Rounds:
    prompts, rounds = Prompts(manifest.vocabulary), Rounds()
    with ExitStack() as stack:
        stack.enter_context(temporary_cache())
        swarm = stack.enter_context(LocalSwarm(options.model, [], serve=["--local", "--rows", "f32"]))
        links = [SlowLink(swarm.url) for _ in range(options.nodes)]
        spans = balanced_spans(options.model, options.nodes)
        model = add_pinned_nodes(swarm, options.model, spans, [link.url for link in links])["model"]
        unsplit = stack.enter_context(Engines(options.model, [Span(0, manifest.layers - 1)], 1))
        ask_together(swarm.url, model, prompts.take(4, PROMPT), 8)  # everything has run once
        for _ in range(options.rounds):
            for place in PLACES:
                put(links, place, options)
                for count in (1, options.streams):
                    asked = prompts.take(count, PROMPT)
                    alone = unsplit.alone(asked, options.tokens)
                    streams = ask_together(swarm.url, model, asked, options.tokens)
                    check_answers([stream.text for stream in streams], alone, f"{count} streams {place}")
                    rounds.setdefault(case(place, count), []).append(values_of(streams))
    return rounds


def predicted_s(near_s: float, manifest: Manifest, options: argparse.Namespace) -> float:
    """The seconds per token of one far stream. near_s: those of a near one."""
    delays: float = 2 * options.nodes * options.delay / 1e3
    row_bits = 8 * payload_size(1, manifest.hidden_size, RowFormat.F32)
    passing: float = 2 * (options.nodes - 1) * row_bits / (options.mbit * 1e6)
    return near_s + delays + passing


def stream_figures(rounds: Rounds) -> list[Figure]:
    return [
        figure
        for name, values in ((name, medians(ones)) for name, ones in rounds.items())
        for figure in (
            SPEED.of(name, values["tokens_per_s"]),
            *(measure.of(name, 1e3 * values[key]) for key, measure in TIMES.items()),
        )
    ]


def ratio_figure(rounds: Rounds, streams: int) -> Figure:
    pairs = zip(rounds[case("far", streams)], rounds[case("far", 1)], strict=True)
    ratios = [many["tokens_per_s"] / one["tokens_per_s"] for many, one in pairs]
    return OVER.of(f"{streams} streams relative to one", ratios, at_least(10))


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--delay", type=float, default=25.0, help="delay in ms each way")
    parser.add_argument("--jitter", type=float, default=2.0, help="jitter in ms, more or less")
    parser.add_argument("--mbit", type=float, default=20.0, help="bandwidth in Mbit/s each way")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.model = options.model or demo_model()
    manifest = open_model(options.model)
    report = Report("wan", options)
    rounds = measure(manifest, options)
    near, far = (medians(rounds[case(place, 1)])["gap_mean_s"] for place in PLACES)
    predicted = predicted_s(near, manifest, options)
    bound = min(options.streams / predicted, medians(rounds[case("near", options.streams)])["tokens_per_s"])
    report.add(
        {
            counted(options.nodes, "node"): stream_figures(rounds),
            "a token of one far stream": [
                MEASURED.of("time per token", 1e3 * far),
                PREDICTED.of("time per token", 1e3 * predicted),
                OVER.of("time per token", far / predicted),
            ],
            "far streams": [ratio_figure(rounds, options.streams)],
        }
    )
    report.finish(
        model=manifest.name,
        prompt=PROMPT,
        rounds=rounds,
        token_predicted_s=predicted,
        token_measured_s=far,
        many_bound_tokens_per_s=bound,
        answers_equal=True,
    )


if __name__ == "__main__":
    main()
