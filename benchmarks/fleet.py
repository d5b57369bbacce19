"""Several coordinators that serve together: what handing a request over costs, how speed grows, and 10,000 nodes.

    python benchmarks/fleet.py [--part hop|scale|nodes] [--quick] [--rounds 5] [--nodes 10000] [--coordinators 10]

All nodes are simulated and answer at once, as in benchmarks/coordinator.py. NATS and PostgreSQL run on this machine.

hop: one client asks the coordinator that has the nodes, and in turns another one, which has none and hands every
request over. The differences of their medians are the cost of the hop. The processor time is that of the coordinator
that hands over, without what it takes while it is idle.

scale: 1, 2 and 4 coordinators, each with nodes and streams of its own, answer long answers and then answers of one
token. All of it runs on the cores of one machine, so that more coordinators are hardly faster here. The speed on cores
of their own is therefore computed from processor time: the number of coordinators, times what a row or a request costs
a coordinator that is in no fleet, divided by what it costs in the fleet. Processor time depends on the load, so for
this every coordinator gets the same rate of steps, and all of them together half of what one could do at full load.

nodes: the coordinators share 10,000 nodes. At rest the traffic of NATS is measured, all bytes in and out, and then
another coordinator is started, which has to learn what all the others cover.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

import httpx
import psutil

from bench.record import Aim, Figure, Measure, at_least, below
from bench.report import Report, options_parser
from bench.rounds import Values
from bench.streams import Stream, all_gaps, ask, check_answers, request
from simulated.fleets import SimulatedFleet, simulated_fleet, wait_until
from simulated.loaded import MIB, Loaded
from simulated.model import FIRST_TOKEN, expected_text

PROMPT = [FIRST_TOKEN] * 8
ANSWER = 48
HOP_LAYERS, HOP_HIDDEN = 2, 64
LONG_ANSWER = 1000
SIZES = (1, 2, 4)
"""The coordinators of each fleet that is measured."""
LONG, SHORT = f"answers of {ANSWER} tokens", "answers of one token"
QUICK = {"rounds": 1, "requests": 20, "seconds": 1.0, "nodes": 200, "coordinators": 4, "rest": 5.0}

DIRECT, HANDED, HOP = Measure("served where it is asked", "ms"), Measure("handed over", "ms"), Measure("the hop", "ms")
HOP_AIMS: dict[str, Aim | None] = {
    "until the first token": below(3),
    "between tokens": below(0.3),
    f"a whole answer of {ANSWER} tokens, not streamed": None,
}
HANDING = Measure("of the coordinator that hands over", "ms")
SCALE_AIM = at_least(1.8)
MEMORY_AIM, KNOWN_AIM, TRAFFIC_AIM = below(400), below(5), below(1)


async def asked_whole(client: httpx.AsyncClient, model: str, tokens: int) -> float:
    """The seconds until an answer that is not streamed is there."""
    body = {**request(model, PROMPT, tokens), "stream": False}
    begun = time.perf_counter()
    reply = await client.post("/v1/completions", json=body)
    seconds = time.perf_counter() - begun
    reply.raise_for_status()
    check_answers([reply.json()["choices"][0]["text"]], [expected_text(PROMPT, tokens)], "whole answers")
    return seconds


async def ask_each(clients: Sequence[httpx.AsyncClient], model: str, requests: int) -> list[Values]:
    """The medians of what each client met, in seconds, when they ask in turns, in the order of `HOP_AIMS`."""
    streams: list[list[Stream]] = [[] for _ in clients]
    wholes: list[list[float]] = [[] for _ in clients]
    for _ in range(requests):
        for number, client in enumerate(clients):
            streams[number].append(await ask(client, model, PROMPT, ANSWER))
            wholes[number].append(await asked_whole(client, model, ANSWER))
    check_answers([one.text for one in chain(*streams)], [expected_text(PROMPT, ANSWER)] * 2 * requests, "the streams")
    return [
        dict(zip(HOP_AIMS, map(statistics.median, ([one.first_s for one in told], all_gaps(told), whole)), strict=True))
        for told, whole in zip(streams, wholes, strict=True)
    ]


async def handing_cpu_s(handing: Loaded, requests: int) -> tuple[float, float]:
    """The CPU seconds for a request, and for a token of an answer, of the coordinator that hands over."""
    begun, before = time.perf_counter(), handing.cpu_s()
    await asyncio.sleep(max(2.0, requests / 100))
    idle = (handing.cpu_s() - before) / (time.perf_counter() - begun)

    async def used(client: httpx.AsyncClient, tokens: int, count: int) -> float:
        begun, before = time.perf_counter(), handing.cpu_s()
        for _ in range(count):
            await ask(client, handing.model, PROMPT, tokens)
        return (handing.cpu_s() - before - idle * (time.perf_counter() - begun)) / count

    async with handing.open_client() as client:
        await used(client, 1, 5)  # the connections are there now
        short, long = await used(client, 1, 4 * requests), await used(client, LONG_ANSWER, max(2, requests // 20))
    return short, (long - short) / (LONG_ANSWER - 1)


def hop_part(report: Report, options: argparse.Namespace) -> dict[str, object]:
    async def measure() -> tuple[list[list[Values]], list[tuple[float, float]]]:
        async with serving.open_client() as direct, handing.open_client() as handed:
            await ask_each([direct, handed], serving.model, 5)
            told = [await ask_each([direct, handed], serving.model, options.requests) for _ in range(options.rounds)]
        return told, [await handing_cpu_s(handing, options.requests) for _ in range(options.rounds)]

    with simulated_fleet(HOP_LAYERS, HOP_HIDDEN) as fleet:
        serving, handing = fleet.add(HOP_LAYERS), fleet.add(0)
        fleet.local.wait_known()
        rounds, cpu = asyncio.run(measure())
    figures = []
    for case, aim in HOP_AIMS.items():
        direct, handed = ([1e3 * told[side][case] for told in rounds] for side in (0, 1))
        hop = [after - before for before, after in zip(direct, handed, strict=True)]
        figures += [DIRECT.of(case, direct), HANDED.of(case, handed), HOP.of(case, hop, aim)]
    costs = [HANDING.of(case, [1e3 * one[number] for one in cpu]) for number, case in enumerate(("request", "token"))]
    report.add({"one client on one connection": figures, "processor time": costs}, "hop")
    return {"hop_rounds": rounds, "hop_cpu_s": cpu}


class Scale:
    """The speed of a coordinator alone and of a fleet. options: of the benchmark.

    rounds: by the fleet's size and what is asked, for each round the values of the coordinator that is alone, and those
    of all in the fleet, first at full load and then at the same rate for all.
    """

    def __init__(self, fleet: SimulatedFleet, options: argparse.Namespace) -> None:
        self._options = options
        self._fleet = fleet
        self._alone = fleet.alone(options.layers)
        self.rounds: dict[tuple[int, str], list[tuple[list[Values], ...]]] = defaultdict(list)

    def measure(self) -> None:
        members: list[Loaded] = []
        for size in SIZES:
            members += [self._fleet.add(self._options.layers) for _ in range(size - len(members))]
            self._fleet.local.wait_known()
            for _ in range(self._options.rounds):
                for case, tokens in ((LONG, ANSWER), (SHORT, 1)):
                    self.rounds[size, case].append(self._round(members, tokens))

    def _round(self, members: Sequence[Loaded], tokens: int) -> tuple[list[Values], ...]:
        [full] = alone = self._load([self._alone], tokens)
        together = self._load(members, tokens)
        rate = full["frames_per_s"] / (self._options.layers - 1) / len(members) / 2
        return alone, together, self._load([self._alone], tokens, rate), self._load(members, tokens, rate)

    def _load(self, loaded: Sequence[Loaded], tokens: int, rate: float | None = None) -> list[Values]:
        options = self._options

        async def all_at_once() -> list[Values]:
            return await asyncio.gather(*(one.load(options.streams, options.seconds, tokens, rate) for one in loaded))

        return asyncio.run(all_at_once())


def scale_figures(scale: Scale, case: str, name: str, measure: Measure) -> list[Figure]:
    """name: of what is counted, in the values."""
    rate, figures = f"{name}_per_s", []
    for size in SIZES:
        row, rounds = "1 coordinator" if size == 1 else f"{size} coordinators", scale.rounds[size, case]
        alone, together = ([total(told[place], rate) for told in rounds] for place in (0, 1))
        cost_alone, cost = (
            [1e3 * total(told[place], "coordinator_cores") / total(told[place], rate) for told in rounds]
            for place in (2, 3)
        )
        computed = [size * one / each for one, each in zip(cost_alone, cost, strict=True)]
        figures += [
            measure.of(row, together),
            Measure("one that is in no fleet", measure.unit).of(row, alone),
            Measure("processor time, in the fleet", "ms").of(row, cost),
            Measure("processor time, in no fleet", "ms").of(row, cost_alone),
            Measure("computed: speed on separate cores", "ratio").of(row, computed, SCALE_AIM if size == 2 else None),
        ]
    return figures


def total(coordinators: Sequence[Values], name: str) -> float:
    return sum(one[name] for one in coordinators)


def scale_part(report: Report, options: argparse.Namespace) -> dict[str, object]:
    with simulated_fleet(options.layers, options.hidden) as fleet:
        scale = Scale(fleet, options)
        scale.measure()
    report.add(
        {
            f"rows, {LONG}": scale_figures(scale, LONG, "frames", Measure("rows relayed", "frames/s")),
            f"requests, {SHORT}": scale_figures(scale, SHORT, "requests", Measure("requests", "requests/s")),
        },
        "scale",
    )
    return {"scale_rounds": {f"{size}, {case}": rounds for (size, case), rounds in scale.rounds.items()}}


def nats_bytes(fleet: SimulatedFleet) -> int:
    """All bytes that have come to the NATS server, and gone."""
    told = httpx.get(f"{fleet.local.nats.watch_url}/varz", trust_env=False).json()
    return int(told["in_bytes"]) + int(told["out_bytes"])


def newcomer(fleet: SimulatedFleet) -> tuple[float, float]:
    """The seconds until one more coordinator has started and answers, and then until it knows what all others cover."""
    known = {member.url: [True] for member in fleet.local.members}
    begun = time.perf_counter()
    member = fleet.begin()
    wait_until(member.answers, 0.02)
    answered = time.perf_counter()
    wait_until(lambda: {**member.seen(), member.url: [True]} == {**known, member.url: [True]}, 0.02)
    return answered - begun, time.perf_counter() - answered


def family_mib(process: psutil.Process) -> float:
    """The memory of a process and its children. What they share is counted for each."""
    return float(sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / MIB)


def nodes_part(report: Report, options: argparse.Namespace) -> dict[str, object]:
    share = options.nodes // options.coordinators
    with simulated_fleet(options.layers, options.hidden) as fleet:
        begun = time.perf_counter()
        members = []
        for number in range(options.coordinators):
            members.append(fleet.add(share))
            print(f"{(number + 1) * share:,} nodes after {time.perf_counter() - begun:.0f} s", flush=True)
        fleet.local.wait_known()
        before, idle_before, rest_begun = nats_bytes(fleet), [one.cpu_s() for one in members], time.perf_counter()
        time.sleep(options.rest)
        rest_s = time.perf_counter() - rest_begun
        traffic = (nats_bytes(fleet) - before) / rest_s / 1e6
        cores = [(one.cpu_s() - used) / rest_s for one, used in zip(members, idle_before, strict=True)]
        started_s, known_s = newcomer(fleet)
        lost = [one.nodes.tell("report")["lost"] for one in members]
        check_answers(lost, [0] * len(members), "the simulated nodes (nodes lost)")
        memory = [one.memory_mib() for one in members]
        families = [family_mib(one.process) for one in members]
    case = f"{options.coordinators} coordinators with {share:,} nodes each"
    own, new = Measure("each coordinator", "MiB"), f"coordinator {options.coordinators + 1}"
    report.add(
        {
            "memory": [
                Measure("the largest coordinator", "MiB").of(case, max(memory), MEMORY_AIM),
                own.of(case, memory),
                Measure("each with its children", "MiB").of(case, families),
            ],
            "at rest": [
                Measure("NATS, in and out", "MB/s").of(case, traffic, TRAFFIC_AIM),
                Measure("processor time of each coordinator", "ms/s").of(case, [1e3 * one for one in cores]),
            ],
            "one more coordinator": [
                Measure("answers after", "s").of(new, started_s),
                Measure("then knows all others after", "s").of(new, known_s, KNOWN_AIM),
            ],
        },
        "nodes",
    )
    return {"memory_mib": memory, "family_mib": families, "idle_cores": cores}


PARTS = {"hop": hop_part, "scale": scale_part, "nodes": nodes_part}


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="measure little of everything")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=100, help="of each kind in a round of the hop")
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=3072, help="values of a row, 4 bytes each")
    parser.add_argument("--streams", type=int, default=16, help="for each coordinator")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--coordinators", type=int, default=10)
    parser.add_argument("--rest", type=float, default=20.0, help="seconds at rest, for which NATS is watched")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    if options.nodes % options.coordinators:
        sys.exit("Every coordinator gets as many nodes: give a multiple of the coordinators.")
    report = Report("fleet", options)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    details: dict[str, object] = {}
    for name, part in PARTS.items():
        if options.part in (None, name):
            details |= part(report, options)
    report.finish(**details, answers_equal=True)


if __name__ == "__main__":
    main()
