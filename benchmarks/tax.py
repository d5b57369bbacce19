"""The tax of a swarm: the speed of one stream through node processes relative to the unsplit engine.

    python benchmarks/tax.py [--nodes 1 2 3 5] [--threads 2] [--tokens 192] [--rounds 3] [--plain]

Both run in turns within one run with the same threads, library and weight layout, so only their ratio matters. Every
answer is compared with the unsplit engine's.

"Not computing" is what the coordinator's trace says of the steps of one token: the time from sending a step to a node
until its answer is there, less the time in which the node computed. It is the wire, both event loops, and the queue.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import NamedTuple

from bench.engines import Engines
from bench.prompts import Prompts
from bench.record import Figure, Measure, at_least, below
from bench.report import Report, options_parser
from bench.rounds import percentile
from bench.streams import ask_in_turn, ask_whole, check_answers
from bench.swarms import forbid_optimised, temporary_cache
from bench.tables import counted
from bench.traces import hops_so_far, idle_since
from potluck.coordinator.model_choice import usual_footprint
from potluck.local import LocalSwarm, demo_model
from potluck.models.manifest import Manifest
from potluck.models.sources import cache_folder, open_model
from potluck.node.hardware import physical_cores
from potluck.types import Span

PROMPT = 30

UNSPLIT, SWARM = Measure("unsplit", "tokens/s"), Measure("swarm", "tokens/s")
STREAMED = Measure("between streamed tokens", "ms")
HOP = Measure("added by a node", "ms")
IDLE = {50: Measure("not computing, p50", "ms"), 99: Measure("not computing, p99", "ms")}
IDLE_AIMS = {50: below(0.45), 99: below(1.5)}
RATIO = Measure("ratio", "ratio")
JUDGED = 3
"""The number of nodes for which there is an aim."""


class Round(NamedTuple):
    """The seconds per token of the unsplit engine, of the swarm, and as a streaming client sees them at the median.

    The swarm's are those of a long answer less a short one, so that the prompt does not count.
    idle_s: percentiles of the seconds of a hop in which its node did not compute, for the long answer.
    """

    nodes: int
    unsplit_s: float
    split_s: float
    streamed_median_s: float
    idle_s: dict[int, float]

    @property
    def ratio(self) -> float:
        return self.unsplit_s / self.split_s

    @property
    def hop_s(self) -> float:
        return (self.split_s - self.unsplit_s) / self.nodes


def one_round(
    swarm: LocalSwarm, model: str, nodes: int, threads: int, prompts: Prompts, engine: Engines, tokens: int
) -> Round:
    long, short, streamed = prompts.take(3, PROMPT)
    alone = engine.answer([long], tokens + 1)
    # The nodes have given way to the engine, as to any other program of this machine.
    swarm.wait_until(lambda status: all(node["threads"] == threads for node in status["nodes"]))
    begun = hops_so_far(swarm.url)
    long_s, long_text = ask_whole(swarm.url, model, long, tokens + 1)
    idle_s = idle_since(swarm.url, begun)  # before the next answer
    short_s, short_text = ask_whole(swarm.url, model, short, 1)
    [stream] = ask_in_turn(swarm.url, model, [streamed], tokens + 1)
    expected = [*alone.texts, *engine.alone([short], 1), *engine.alone([streamed], tokens + 1)]
    check_answers([long_text, short_text, stream.text], expected, f"{nodes} nodes")
    split_s = (long_s - short_s) / tokens
    idle = {share: percentile(idle_s, share) for share in IDLE}
    return Round(nodes, statistics.fmean(alone.step_s), split_s, statistics.median(stream.gaps), idle)


def measure(manifest: Manifest, options: argparse.Namespace) -> list[Round]:
    prompts, rounds = Prompts(manifest.vocabulary), []
    whole, sizes = [Span(0, manifest.layers - 1)], usual_footprint(manifest)
    with temporary_cache(), Engines(options.model, whole, options.threads, extra_buffers=not options.plain) as engine:
        engine.answer(prompts.take(1, PROMPT), 8)  # everything has run once
        for nodes in options.nodes:
            spans, join = sizes.share(nodes), ["--threads", str(options.threads)]
            if options.plain:
                forbid_optimised(options.model, spans, cache_folder())
            with LocalSwarm(options.model, spans, serve=["--local"], join=join) as swarm:
                model = swarm.wait_covered()["model"]
                ask_in_turn(swarm.url, model, prompts.take(1, PROMPT), 8)
                for _ in range(options.rounds):
                    rounds.append(one_round(swarm, model, nodes, options.threads, prompts, engine, options.tokens))
    return rounds


def speed_figures(rounds: list[Round], threads: int) -> list[Figure]:
    """The speeds in the rounds with one number of nodes."""
    nodes = rounds[0].nodes
    case = counted(nodes, "node")
    aim = at_least(0.8 if threads == 1 else 0.65) if nodes == JUDGED else None
    return [
        UNSPLIT.of(case, [1 / one.unsplit_s for one in rounds]),
        SWARM.of(case, [1 / one.split_s for one in rounds]),
        STREAMED.of(case, [1e3 * one.streamed_median_s for one in rounds]),
        RATIO.of(case, [one.ratio for one in rounds], aim),
    ]


def hop_figures(rounds: list[Round]) -> list[Figure]:
    """What a node adds, in the rounds with one number of nodes."""
    case = counted(rounds[0].nodes, "node")
    return [
        HOP.of(case, [1e3 * one.hop_s for one in rounds]),
        *(
            measure.of(case, [1e3 * one.idle_s[share] for one in rounds], IDLE_AIMS[share])
            for share, measure in IDLE.items()
        ),
    ]


def variant(options: argparse.Namespace) -> str:
    """The name of what is unusual about a run, such as "plain-1-thread"; empty for the usual one."""
    threads = "" if options.threads == physical_cores() else f"{options.threads}-thread"
    return "-".join(filter(None, ("plain" if options.plain else "", threads)))


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="use the plain weight layout")
    options = parser.parse_args()
    options.model = options.model or demo_model()
    manifest = open_model(options.model)
    report = Report("tax", options)
    rounds = measure(manifest, options)
    cases = [[one for one in rounds if one.nodes == nodes] for nodes in options.nodes]
    speeds = [figure for case in cases for figure in speed_figures(case, options.threads)]
    hops = [figure for case in cases for figure in hop_figures(case)]
    report.add({"one stream through": speeds, "what each adds": hops}, variant(options))
    report.finish(
        model=manifest.name,
        rounds=[{**one._asdict(), "ratio": one.ratio, "hop_s": one.hop_s} for one in rounds],
        answers_equal=True,
    )


if __name__ == "__main__":
    main()
