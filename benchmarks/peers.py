"""The swarm beside llama.cpp's own server, unsplit and with the layers on two RPC servers, on the same two cores.

    python benchmarks/peers.py --bin FOLDER [--streams 1 8 16] [--prompts 16 128] [--tokens 64] [--rounds 3]

FOLDER holds `llama-server` and `ggml-rpc-server`. llama.cpp builds them with
`cmake -B build -DGGML_RPC=ON && cmake --build build --target llama-server ggml-rpc-server`, into `build/bin`.

Three sides are asked the same in turns within one run, each round in another order:
- "swarm": two nodes with one thread each, one bound to each core, and their coordinator.
- "RPC": `llama-server -np 16 -c 8192 --cache-ram 0 -t 2 --rpc A,B -ngl 99`, and `ggml-rpc-server -t 1` twice, one bound
  to each core. With `-t 1` the server was no faster.
- "unsplit": `llama-server -np 16 -c 8192 --cache-ram 0 -t 2`.
Everything, the client included, is bound to the same two cores, and who is not asked rests. There is a slot for each
stream, and continuous batching is on, as by default. `--cache-ram 0` spares the servers copies of old prompts, which
would only cost them time here. All sides read the same model. They answer greedily and never end early, so that they
give the same number of tokens. The prompts are random, and no prompt comes twice. Every answer of the swarm is compared
with the one that the model gives when it is asked nothing else; those of `llama-server` depend on the other streams.

The speed counts whole answers, from the first request to the last token.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import psutil

from bench.engines import Engines
from bench.prompts import Prompt, Prompts
from bench.record import Aim, Figure, Measure, at_least
from bench.report import Report, options_parser
from bench.rounds import Values, percentile
from bench.stock import Programs, ask_stock, find_programs, llama_server, rpc_servers
from bench.streams import Stream, all_gaps, ask_together, check_answers, tokens_per_s
from bench.swarms import add_pinned_nodes, balanced_spans, temporary_cache
from bench.tables import counted
from potluck.local import LocalSwarm, demo_model
from potluck.models.manifest import Manifest
from potluck.models.sources import open_model
from potluck.platform import usable_cores
from potluck.types import Span

CORES = 2
SLOT = 512
"""The positions of a slot, at least."""

SWARM, RPC, UNSPLIT = SIDES = ("swarm", "RPC", "unsplit")
OVER_RPC = {1: at_least(2.2), 8: at_least(4), 16: at_least(4.5)}
OVER_UNSPLIT = {8: at_least(0.9), 16: at_least(1.1)}
"""The aims, by the number of streams."""

SPEEDS = {side: Measure(side, "tokens/s") for side in SIDES}
GAPS = {side: Measure(f"between p50, {side}", "ms") for side in SIDES}

Ask = Callable[[Sequence[Prompt], int], list[Stream]]
Case = tuple[int, int]
"""The number of streams and the tokens of a prompt."""

Round = dict[Case, dict[str, Values]]
"""The values of each side."""


@contextmanager
def sides(programs: Programs, manifest: Manifest, options: argparse.Namespace) -> Iterator[dict[str, Ask]]:
    """All three sides, ready to be asked."""
    slots = max(options.streams)
    context = max(SLOT, max(options.prompts) + options.tokens)
    with ExitStack() as stack:
        start = stack.enter_context
        start(temporary_cache())
        swarm = start(LocalSwarm(options.model, [], serve=["--local"]))
        model = add_pinned_nodes(swarm, options.model, balanced_spans(options.model, CORES))["model"]
        remote = start(llama_server(programs, options.model, slots, context, start(rpc_servers(programs))))
        unsplit = start(llama_server(programs, options.model, slots, context))
        yield {
            SWARM: partial(ask_together, swarm.url, model),
            RPC: partial(ask_stock, remote),
            UNSPLIT: partial(ask_stock, unsplit),
        }


def one_round(
    asks: Mapping[str, Ask], order: Sequence[str], prompts: Prompts, engine: Engines, options: argparse.Namespace
) -> Round:
    values: Round = {}
    for length in options.prompts:
        for count in options.streams:
            asked = prompts.take(count, length)
            streams = {side: asks[side](asked, options.tokens) for side in order}
            alone = engine.alone(asked, options.tokens)
            check_answers([stream.text for stream in streams[SWARM]], alone, counted(count, "stream"))
            values[count, length] = {side: values_of(streams[side]) for side in SIDES}
    return values


def values_of(streams: list[Stream]) -> Values:
    return {"tokens_per_s": tokens_per_s(streams), "gap_p50_s": percentile(all_gaps(streams), 50)}


def measure(programs: Programs, manifest: Manifest, options: argparse.Namespace) -> list[Round]:
    prompts = Prompts(manifest.vocabulary)
    whole = [Span(0, manifest.layers - 1)]
    with sides(programs, manifest, options) as asks, Engines(options.model, whole, 1) as engine:
        for ask in asks.values():
            ask(prompts.take(max(options.streams), 16), 8)  # everything has run once
        orders = [SIDES[number % 3 :] + SIDES[: number % 3] for number in range(options.rounds)]
        return [one_round(asks, order, prompts, engine, options) for order in orders]


def name_of(case: Case) -> str:
    streams, prompt = case
    return f"{counted(streams, 'stream')}, prompts of {prompt}"


def figures_of(rounds: list[Round], measures: Mapping[str, Measure], value: str, scale: float = 1) -> list[Figure]:
    """What was measured of each case on each side."""
    return [
        measure.of(name_of(case), [scale * one[case][side][value] for one in rounds])
        for case in rounds[0]
        for side, measure in measures.items()
    ]


def ratio_figures(rounds: list[Round]) -> list[Figure]:
    """The speed of the swarm over that of the others, in each round."""

    def over(other: str, case: Case, aim: Aim | None) -> Figure:
        speeds = [{side: values["tokens_per_s"] for side, values in one[case].items()} for one in rounds]
        return Measure(other, "ratio").of(name_of(case), [one[SWARM] / one[other] for one in speeds], aim)

    return [
        figure
        for case in rounds[0]
        for figure in (over(RPC, case, OVER_RPC.get(case[0])), over(UNSPLIT, case, OVER_UNSPLIT.get(case[0])))
    ]


def bind() -> None:
    """Bind this process, and all that it will start, to two cores. Ends the program if there are not so many."""
    if len(usable_cores()) < CORES:
        sys.exit("Two nodes of one core each need two cores, and this program may use only one.")
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        process.cpu_affinity(usable_cores()[:CORES])


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--bin", type=Path, required=True, metavar="FOLDER", help="the folder of llama.cpp's programs")
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 128], help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    programs = find_programs(options.bin)
    options.model = options.model or demo_model()
    manifest = open_model(options.model)
    report = Report("peers", options)
    bind()
    rounds = measure(programs, manifest, options)
    report.add(
        {
            "same two cores": figures_of(rounds, SPEEDS, "tokens_per_s"),
            "time between tokens": figures_of(rounds, GAPS, "gap_p50_s", 1e3),
            "swarm relative to": ratio_figures(rounds),
        }
    )
    report.finish(
        model=manifest.name,
        llama_server=programs.version,
        rounds=[{name_of(case): values for case, values in one.items()} for one in rounds],
        answers_equal=True,
    )


if __name__ == "__main__":
    main()
