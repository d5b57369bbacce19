"""Whether a change made the swarm slower: this checkout and another one, asked the same in turns.

    python benchmarks/compare.py OTHER [--rounds 6] [--tokens 96] [--streams 16]

OTHER is a checkout of another commit, such as `git worktree add ../before COMMIT`. Both run two nodes of one core each
all the time, and idle nodes take no processor time. Every round asks both for one answer and for many at once, each
time the other one first. The ratio is the speed of this checkout over that of the other. The answers of both must be
equal.

Of two swarms with equal code, the one that was started first was up to a tenth slower for as long as both ran. So
everything is done twice, and the second time the checkouts start in the other order. The ratio of a round is the
geometric mean of its two ratios, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import shutil
from contextlib import ExitStack
from pathlib import Path
from statistics import geometric_mean
from typing import NamedTuple

from bench.prompts import Prompt, Prompts
from bench.record import Measure, at_least
from bench.report import ROOT, Report, options_parser
from bench.streams import ask_together, check_answers, tokens_per_s
from bench.swarms import add_pinned_nodes, balanced_spans, temporary_cache
from potluck.local import LocalSwarm, demo_model
from potluck.models.sources import open_model
from potluck.types import Span

PROMPT = 16
AIM = at_least(0.97)
SPEED = Measure("this over the other", "ratio")


class Side(NamedTuple):
    swarm: LocalSwarm
    model: str


def start(stack: ExitStack, checkout: Path, spans: list[Span], model: Path) -> Side:
    """Two nodes and a coordinator of this checkout's code, with the libraries of this environment."""
    _copy_compiled(checkout)
    swarm = stack.enter_context(LocalSwarm(model, [], serve=["--local"], PYTHONPATH=str(checkout / "src")))
    return Side(swarm, add_pinned_nodes(swarm, model, spans)["model"])


def _copy_compiled(checkout: Path) -> None:
    """Give a checkout that was never installed the callback that is compiled at installation."""
    for file in (ROOT / "src" / "potluck" / "engine").glob("_tap*.so"):
        if not (checkout / "src" / "potluck" / "engine" / file.name).exists():
            shutil.copy(file, checkout / "src" / "potluck" / "engine")


def one_ratio(sides: list[Side], prompts: list[Prompt], tokens: int, first: int) -> float:
    """The speed of the first side over that of the second, for these prompts at once."""
    speeds, texts = {}, {}
    for number in (first, 1 - first):
        streams = ask_together(sides[number].swarm.url, sides[number].model, prompts, tokens)
        speeds[number], texts[number] = tokens_per_s(streams), [stream.text for stream in streams]
    check_answers(texts[0], texts[1], "this checkout")
    return speeds[0] / speeds[1]


def measure(sides: list[Side], prompts: Prompts, options: argparse.Namespace) -> dict[int, list[float]]:
    """The ratios of all rounds with these swarms, by the number of streams."""
    ratios: dict[int, list[float]] = {1: [], options.streams: []}
    for number in range(options.rounds + 1):
        for streams, values in ratios.items():
            value = one_ratio(sides, prompts.take(streams, PROMPT), options.tokens, number % 2)
            if number:  # the first round warms both up
                values.append(value)
    return ratios


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("other", type=Path, help="a checkout of another commit")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--streams", type=int, default=16)
    options = parser.parse_args()
    if not (options.other / "src" / "potluck").is_dir():
        parser.error(f"{options.other} is not a checkout of Potluck.")
    model = demo_model()
    manifest, spans = open_model(model), balanced_spans(model, 2)
    report = Report("compare", options)
    checkouts, prompts = (ROOT, options.other.resolve()), Prompts(manifest.vocabulary)
    orders = []
    for order in ((0, 1), (1, 0)):
        with temporary_cache(), ExitStack() as stack:
            started = {number: start(stack, checkouts[number], spans, model) for number in order}
            orders.append(measure([started[0], started[1]], prompts, options))
    ratios = {
        streams: [geometric_mean(pair) for pair in zip(*(order[streams] for order in orders), strict=True)]
        for streams in orders[0]
    }
    report.add({"streams": [SPEED.of(str(number), values, AIM) for number, values in ratios.items()]})
    report.finish(
        rounds=[{"streams": number, "ratios": values} for number, values in ratios.items()],
        orders=[{str(streams): values for streams, values in order.items()} for order in orders],
    )


if __name__ == "__main__":
    main()
