"""Audits against nodes that lie and honest nodes that differ: who is caught, how soon, and at what cost.

    python benchmarks/adversary.py [--runs 15] [--audits 5000] [--rounds 5] [--quick] [--smollm2]
        [--prompt 20] [--rows f32] [--part attacks|honest|overhead] [--guess]

Attacks: a tiny random model runs on three spans, each on two honest nodes and one that lies (see
benchmarks/hostile_node.py), until every lie has been told often enough. Meanwhile three streams ask for short answers,
and every one must be answered. Nodes lie from their first step on, or once they have been honest for a while and only
the regular audits can still catch them. With --smollm2 the model is SmolLM2, at the default rate only. --rows is the
form of their hidden rows.
Honest: SmolLM2 and the tiny model have every layer on three nodes, some with the plain weight layout. Rows are f32, f16
or q8, requests come alone or eight at once, and every session is audited. Nobody may be accused.
Overhead: SmolLM2 has every layer on two nodes. The processor time per token is measured with and without audits in
turns.
With --guess the model itself guesses for the answers of the attacks and of the honest nodes, and every fifth guess is
made wrong; up to 15 are under way, whether they pay or not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from gguf import GGMLQuantizationType

from bench.guessed import Counts, scripted_swarm
from bench.guesses import Script
from bench.hostile import HostileNode
from bench.prompts import Prompts
from bench.record import Aim, Figure, Measure, at_least, below
from bench.report import Report, options_parser
from bench.smaller import KINDS, requantized
from bench.streams import ask_together
from bench.tables import counted, print_table
from bench.traffic import Traffic, wait_until
from hostile_node import LIES
from potluck.coordinator.text.opening import open_tokenizer
from potluck.local import LocalSwarm, demo_model
from potluck.models.sources import open_model
from potluck.types import RowFormat, Span, even_spans

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from kit.tiny_gguf import write_tiny_gguf

PROMPT, ANSWER = 20, 40
STREAMS = 3
TRUSTED_STEPS = 160
"""For which a node is honest first: its first sessions, which are all audited, are over by then."""
MOST_LIES = 400
AIM_TOKENS = 200
GUESSED = Script("own:0.8", deep=True)
RATES = (0.01, 0.02, 0.05)
DEFAULT_RATE = 0.02
OVERHEAD_RATES = ("0", str(DEFAULT_RATE))
ATTACKS = tuple(name for name in LIES if name != "none")

RUNS, CAUGHT = Measure("runs", "count"), Measure("caught", "%")
WITHIN = Measure(f"within {AIM_TOKENS} tokens", "%")
MEDIAN, MOST = Measure("median tokens until caught", "count"), Measure("most tokens", "count")
AUDITS, ACCUSED = Measure("audits", "count"), Measure("accusations", "count")
OVERHEAD = Measure("processor time added to a token", "%")


@contextmanager
def honest_nodes(
    model: Path, spans: Sequence[Span], copies: int, serve: Sequence[str], *, guess: bool = False
) -> Iterator[LocalSwarm]:
    """A swarm with every span on so many nodes. Each node has a name, and so a key, of its own."""
    join = ["--model", str(model), "--threads", "1"]
    with ExitStack() as stack:
        if guess:
            swarm, script = stack.enter_context(scripted_swarm(model, [*serve, "--guesser", str(model)], join))
            GUESSED.write(script)
        else:
            swarm = stack.enter_context(LocalSwarm(model, [], serve=serve, join=join))
        for span in spans:
            for copy in range(copies):
                swarm.add_node(str(span), "--name", f"{span} {'abc'[copy]}")
        yield swarm


# Attacks


def attack_groups() -> list[dict[int, str]]:
    """The attacks to run side by side: one for each span that lies. Only the last span has candidates to forge."""
    last = ["forged candidates", "noise 1 %", "bias 0.1 %", "zeros"]
    others = [attack for attack in ATTACKS if attack != "forged candidates"]
    groups = [{0: one, 1: other} for one, other in zip(others[::2], others[1::2], strict=False)]
    if len(others) % 2:
        groups.append({0: others[-1]})
    for group, attack in zip(groups, last, strict=False):
        group[2] = attack
    return groups


@dataclass
class Ending:
    """How the stays of one liar ended: for each, whether it was caught and in how many steps it had lied by then."""

    attack: str
    place: int
    honest: int
    rate: float
    stays: list[tuple[bool, int]]

    @property
    def told(self) -> list[int]:
        """The lies that were told in each of the stays that ended with the node being caught."""
        return [lies for caught, lies in self.stays if caught]


def run_group(
    swarm: LocalSwarm, model: Path, group: dict[int, str], honest: int, runs: int, traffic: Traffic
) -> dict[tuple[str, int], list[tuple[bool, int]]]:
    spans = even_spans(open_model(model).layers, 3)
    with ExitStack() as stack:
        nodes = {
            (attack, place): stack.enter_context(
                HostileNode(
                    swarm.url, spans[place], model, attack=attack, honest=honest, most=MOST_LIES, name=f"liar{place}"
                )
            )
            for place, attack in group.items()
        }
        for node in nodes.values():
            node.ready.wait(60)
        with traffic.flowing(STREAMS, ANSWER):
            if not wait_until(lambda: all(len(node.stays) >= runs for node in nodes.values()), timeout=600):
                sys.exit(f"Not enough runs of {group}: {[len(node.stays) for node in nodes.values()]}.")
        return {key: node.stays[:] for key, node in nodes.items()}


def attack(model: Path, rate: float, runs: int, options: argparse.Namespace) -> Iterator[Ending]:
    """Run all attacks at one rate of audits. Ends the program if an honest node is convicted."""
    spans, vocabulary = even_spans(open_model(model).layers, 3), open_tokenizer(model).vocabulary
    serve = ["--local", "--audit", str(rate), "--rows", options.rows]
    with honest_nodes(model, spans, 2, serve, guess=options.guess) as swarm:
        name = swarm.wait_covered()["model"]
        for honest in (0, TRUSTED_STEPS):
            for group in attack_groups():
                traffic = Traffic(swarm.url, name, Prompts(vocabulary, seed=time.time_ns() % 2**32), options.prompt)
                ended = run_group(swarm, model, group, honest, runs, traffic)
                if traffic.errors:
                    sys.exit(f"An answer broke off: {traffic.errors[0]}")
                for (lie, place), stays in ended.items():
                    yield Ending(lie, place, honest, rate, stays)
        print_guesses(swarm)
        quarantined = [node for node in swarm.status()["nodes"] if node["state"] == "quarantined"]
        if wronged := [node for node in quarantined if not node["name"].startswith("liar")]:
            sys.exit(f"An honest node was convicted: {wronged}")


def print_guesses(swarm: LocalSwarm) -> None:
    counts = Counts.read(swarm.url)
    if counts.guesses:
        print(f"{counts.guesses:g} guesses, {counts.right:g} right, for {counts.generated:g} tokens", flush=True)


def within(stays: Sequence[tuple[bool, int]]) -> float:
    """The percentage of stays that were caught in time."""
    return 100 * sum(caught and lies <= AIM_TOKENS for caught, lies in stays) / len(stays)


def stay_figures(case: str, endings: Sequence[Ending], aim: Aim | None = None) -> list[Figure]:
    stays = [stay for one in endings for stay in one.stays]
    told = [lies for one in endings for lies in one.told]
    return [
        RUNS.of(case, len(stays)),
        CAUGHT.of(case, 100 * len(told) / len(stays)),
        WITHIN.of(case, within(stays), aim),
        *([MEDIAN.of(case, median(told)), MOST.of(case, max(told))] if told else []),
    ]


def attack_part(report: Report, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    runs = rates_and_runs(options)
    endings = [ending for rate, count in runs.items() for ending in attack(model, rate, count, options)]
    begins = {0: "at once", TRUSTED_STEPS: "once trusted"}
    print_table(
        ("attack", "lies", "rate", "runs", "caught", "in time"),
        [
            (
                f"{one.attack}, span {one.place}",
                begins[one.honest],
                f"{one.rate:.0%}",
                len(one.stays),
                len(one.told),
                f"{within(one.stays):.0f}%",
            )
            for one in endings
        ],
    )
    figures = []
    for rate, (honest, begin) in product(runs, begins.items()):
        chosen = [one for one in endings if (one.rate, one.honest) == (rate, honest)]
        figures += stay_figures(f"{rate:.0%}, {begin}", chosen)
    default = [one for one in endings if one.rate == DEFAULT_RATE]
    figures += stay_figures("all at the default rate", default, at_least(99))
    form = "" if options.rows is RowFormat.F32 else options.rows
    part = part_of(options, "smollm2" if options.smollm2 else "", form)
    report.add({"audits, and when the lies begin": figures}, part)
    return {"attacks": [asdict(one) for one in endings]}


# Honest nodes that differ


def honest_part(report: Report, models: Sequence[tuple[Path, int]], options: argparse.Namespace) -> None:
    """models: each with the number of audits to run on it, as many over rows of each form."""
    rows, audits, accused = [], 0, 0
    ways = list(product(RowFormat, (1, 8)))
    for (model, wanted), (form, streams) in product(models, ways):
        passed, failed, undecided = honest_swarm(model, form, streams, wanted // len(ways), guess=options.guess)
        audits, accused = audits + passed + failed + undecided, accused + failed + undecided
        rows.append((model.stem[:24], form, streams, passed, failed, undecided))
    print_table(("model", "rows", "at once", "passed", "failed", "undecided"), rows)
    case = "two weight layouts"
    report.add(
        {"honest nodes": [AUDITS.of(case, audits), ACCUSED.of(case, accused, below(1))]}, part_of(options, "honest")
    )


def honest_swarm(model: Path, form: RowFormat, streams: int, wanted: int, *, guess: bool) -> tuple[int, int, int]:
    manifest = open_model(model)
    spans = even_spans(manifest.layers, 3)
    serve = ["--local", "--audit", "1", "--rows", form]
    with ExitStack() as stack:
        swarm = stack.enter_context(honest_nodes(model, spans, 1, serve, guess=guess))
        for span in spans:
            for copy in ("x", "y") if streams == 1 else ("x",):
                options = {"attack": "none", "plain": True, "name": f"plain{copy}"}
                node = stack.enter_context(HostileNode(swarm.url, span, model, **options))
                node.ready.wait(60)
        name = swarm.wait_until(lambda status: min(status["served"]) >= 2)["model"]
        traffic = Traffic(swarm.url, name, Prompts(open_tokenizer(model).vocabulary, seed=len(form) + streams), PROMPT)

        def audits() -> tuple[int, int, int]:
            status = swarm.status()
            return status["audits_passed"], status["audits_failed"], status["audits_undecided"]

        with traffic.flowing(streams, 8):
            if not wait_until(lambda: sum(audits()) >= wanted, timeout=900):
                sys.exit(f"Only {audits()} audits.")
        if traffic.errors:
            sys.exit(f"An answer broke off: {traffic.errors[0]}")
        print_guesses(swarm)
        return audits()


# Overhead


def cpu_s(swarm: LocalSwarm) -> float:
    """The processor seconds that the coordinator and the nodes have taken so far."""
    processes = [psutil.Process(process.popen.pid) for process in (swarm.coordinator, *swarm.nodes)]
    return sum(process.cpu_times().user + process.cpu_times().system for process in processes)


@dataclass
class Overhead:
    """The processor seconds per token of each round, by the rate of audits, and the number of audits."""

    streams: int
    spent: dict[str, list[float]]
    audits: int

    def figure(self) -> Figure:
        without, with_audits = (sum(self.spent[rate]) for rate in OVERHEAD_RATES)
        return OVERHEAD.of(counted(self.streams, "stream"), 100 * (with_audits / without - 1), below(4))


def measure_overhead(rounds: int, streams: int) -> Overhead:
    """Ask two swarms in turns, and compare their processor seconds per token.

    Other programs on the machine hardly change these, and they limit the throughput of a swarm that is fully used.
    """
    model = demo_model()
    spans = even_spans(open_model(model).layers, 3)
    prompts = Prompts(open_tokenizer(model).vocabulary)
    spent: dict[str, list[float]] = {rate: [] for rate in OVERHEAD_RATES}
    with ExitStack() as stack:
        swarms = {
            rate: stack.enter_context(honest_nodes(model, spans, 2, ["--local", "--audit", rate]))
            for rate in OVERHEAD_RATES
        }
        names = {rate: swarm.wait_covered()["model"] for rate, swarm in swarms.items()}
        for rate, swarm in swarms.items():  # newcomers' sessions, which are all audited
            for _ in range(3):
                ask_together(swarm.url, names[rate], prompts.take(8, PROMPT), ANSWER)
        before = swarms[str(DEFAULT_RATE)].status()["audits_passed"]
        for _ in range(rounds):
            for rate, swarm in swarms.items():
                begun = cpu_s(swarm)
                for _ in range(4):
                    ask_together(swarm.url, names[rate], prompts.take(streams, PROMPT), ANSWER)
                spent[rate].append((cpu_s(swarm) - begun) / (4 * streams * ANSWER))
        audits = swarms[str(DEFAULT_RATE)].status()["audits_passed"] - before
    return Overhead(streams, spent, audits)


def overhead_part(report: Report, rounds: int) -> dict[str, Any]:
    measured = [measure_overhead(rounds, streams) for streams in (1, 4)]
    report.add({"audits at the default rate": [one.figure() for one in measured]}, "overhead")
    return {"overhead": [asdict(one) for one in measured]}


def rates_and_runs(options: argparse.Namespace) -> dict[float, int]:
    """How often each attack runs at each rate. In short benchmarks there is only the default rate."""
    if options.quick or options.smollm2 or (options.prompt, options.rows) != (PROMPT, RowFormat.F32):
        return {DEFAULT_RATE: options.runs}
    return {rate: options.runs if rate == DEFAULT_RATE else max(2, options.runs // 3) for rate in RATES}


def part_of(options: argparse.Namespace, *names: str) -> str:
    """The name of a part's record."""
    return "-".join(filter(None, (*names, "guess" if options.guess else "")))


def tiny_model(folder: Path, dtype: GGMLQuantizationType) -> Path:
    return write_tiny_gguf(folder / f"tiny-{dtype.name}.gguf", tokenizer="bpe", context=4096, dtype=dtype)


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--runs", type=int, default=15, help="runs of each attack at the default rate")
    parser.add_argument("--audits", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5, help="rounds for the overhead")
    parser.add_argument("--quick", action="store_true", help="measure little of everything")
    parser.add_argument(
        "--smollm2", action="store_true", help="attack SmolLM2 instead of a tiny model, which is much slower"
    )
    parser.add_argument("--prompt", type=int, default=PROMPT, help="tokens of each prompt in the attacks")
    parser.add_argument("--rows", type=RowFormat, default=RowFormat.F32, help="the form of hidden rows in the attacks")
    parser.add_argument("--guess", action="store_true", help="have the model guess for itself, with errors")
    parser.add_argument("--part", choices=("attacks", "honest", "overhead"))
    options = parser.parse_args()
    if options.quick:
        options.runs, options.audits, options.rounds = 3, 200, 1
    report = Report("adversary", options)
    details: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        os.environ["POTLUCK_DATA"] = name  # whom a coordinator caught it remembers
        folder = Path(name)
        if options.part in (None, "attacks"):
            model = demo_model() if options.smollm2 else tiny_model(folder, GGMLQuantizationType.Q8_0)
            details |= attack_part(report, model, options)
        if options.part in (None, "honest"):
            small = tiny_model(folder, GGMLQuantizationType.Q4_0)  # of the usual weights those with most layouts
            real = requantized(demo_model(), KINDS["Q4_0"], folder)
            honest_part(report, [(small, options.audits * 4 // 5), (real, options.audits // 5)], options)
        if options.part in (None, "overhead") and not options.guess:
            details |= overhead_part(report, options.rounds)
    report.finish(**details)


if __name__ == "__main__":
    main()
