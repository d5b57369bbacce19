"""The coordinator alone: how many hidden rows a second it relays, how long it holds each, and its memory.

    python benchmarks/coordinator.py [--layers 40] [--hidden 3072] [--streams 32] [--bundle 8] [--seconds 8]

`potluck serve` serves a model that has metadata but no weights. Its nodes are simulated in one process. Each has one
layer and answers at once: it passes on the rows that it gets, and the last one gives the next token. With 40 layers a
token takes 39 relayed frames and one sampled, streamed token, so relaying is nearly all of the work. All answers are
known beforehand, and the last node compares every byte of the rows that reach it.

Frames travel alone, and then in bundles, as those of nodes that compute batches do: the first stage waits for as many
steps as a bundle holds. The latency runs from the moment at which one node sends a frame until the next node has it, at
half of the load that was reached before. It includes two passages through the loopback device and the simulation's own
queues, so it is an upper bound.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import psutil

from bench.record import Aim, Figure, Measure, Unit, at_least, below
from bench.report import Report, options_parser
from bench.rounds import Values
from bench.streams import ask, check_answers
from bench.swarms import temporary_cache
from potluck.local import LocalSwarm
from simulated.loaded import Loaded
from simulated.model import FIRST_TOKEN, TOKENS, expected_text, write_model
from simulated.nodes import Nodes

ANSWER = 48
_HANG_S, _POLL_S = 120.0, 0.01
_LOT = 64
"""Sessions that are asked for together. At most twice as many are under way, because a server has room for few clients
that it has not heard yet."""

SHOWN: dict[str, tuple[str, Unit, float]] = {
    "frames_per_s": ("frames relayed", "frames/s", 1),
    "mb_per_s": ("bytes relayed", "MB/s", 1),
    "frames_per_cpu_s": ("frames in a CPU second", "count", 1),
    "coordinator_cores": ("cores that the coordinator used", "count", 1),
    "simulation_cores": ("cores that the simulation used", "count", 1),
    "latency_p50_s": ("latency p50", "ms", 1e3),
    "latency_p99_s": ("latency p99", "ms", 1e3),
}
"""The case and unit of each value, and what the value is multiplied by for it."""

ALONE, TOGETHER = "alone", "in bundles"
FULL, HALF = "full load", "half load"
AIMS: dict[tuple[str, str, str], Aim] = {
    (ALONE, FULL, "frames_per_s"): at_least(20_000),
    (ALONE, HALF, "latency_p50_s"): below(0.3),
    (ALONE, HALF, "latency_p99_s"): below(1),
    (TOGETHER, FULL, "frames_per_s"): at_least(60_000),
}
OPENED_AIM = below(2)
MEMORY = Measure("MiB", "MiB")


@dataclass
class Measured:
    """loads: the values of each round, by how frames travel and by the load.

    memory: the coordinator's MiB at several moments, in their order. opened_s, passed_s: the seconds until the first
    step of every session was at its first stage, and until it was at its last.
    """

    loads: dict[tuple[str, str], list[Values]] = field(default_factory=lambda: defaultdict(list))
    memory: dict[str, float] = field(default_factory=dict)
    opened_s: float = 0.0
    passed_s: float = 0.0


class Bench(Loaded):
    """A coordinator that also holds many sessions open."""

    def hold(self, sessions: int) -> tuple[float, float, float]:
        """The coordinator's MiB while so many sessions are open, and the seconds until they were open, and until their
        rows had passed all layers.
        """
        return asyncio.run(self._hold(sessions))

    async def _hold(self, sessions: int) -> tuple[float, float, float]:
        self.nodes.tell("hold")
        prompts = [[FIRST_TOKEN + number % TOKENS] * 4 for number in range(sessions)]
        begun = time.perf_counter()
        async with self.open_client() as client:
            tasks = []
            for number, prompt in enumerate(prompts, 1):
                tasks.append(asyncio.create_task(ask(client, self.model, prompt, 2)))
                if not number % _LOT:
                    await self._until("held_first", number - _LOT, begun)
            opened_s = await self._until("held_first", sessions, begun)
            self.nodes.tell("release first")
            passed_s = await self._until("held_last", sessions, begun)
            memory = self.memory_mib()
            self.nodes.tell("release last")
            texts = [answer.text for answer in await asyncio.gather(*tasks)]
        check_answers(texts, [expected_text(prompt, 2) for prompt in prompts], f"{sessions} sessions")
        return memory, opened_s, passed_s

    async def _until(self, name: str, count: int, begun: float) -> float:
        """The seconds since `begun` when the simulation's report counts so many."""
        while self.nodes.tell("report")[name] < count:
            if time.perf_counter() - begun > _HANG_S:
                raise TimeoutError(f"{count} sessions were not open in time.")
            await asyncio.sleep(_POLL_S)
        return time.perf_counter() - begun


@contextmanager
def benched(options: argparse.Namespace) -> Iterator[Bench]:
    """A coordinator that has no nodes yet."""
    with ExitStack() as stack:
        path = stack.enter_context(temporary_cache()) / "weightless.gguf"
        write_model(path, options.layers, options.hidden)
        swarm = stack.enter_context(LocalSwarm(path, [], serve=["--local", "--rows", "f32"]))
        nodes = Nodes(swarm.url, partial(wait_ready, swarm), options.layers, options.hidden)
        stack.callback(nodes.end)
        yield Bench(swarm.url, swarm.status()["model"], psutil.Process(swarm.coordinator.popen.pid), nodes)


def wait_ready(swarm: LocalSwarm, count: int) -> None:
    """Wait until so many nodes serve."""
    swarm.wait_until(lambda status: [one["state"] for one in status["nodes"]].count("ready") == count)


def measure(options: argparse.Namespace) -> Measured:
    measured = Measured()
    with benched(options) as bench:
        memory = measured.memory
        memory["alone"] = bench.memory_mib()
        bench.nodes.connect(options.layers)
        memory[f"{options.layers} nodes"] = bench.memory_mib()
        for _ in range(options.rounds):
            for travel, together in ((ALONE, 1), (TOGETHER, options.bundle)):
                bench.nodes.tell("together", together)
                for load, values in load_fully_and_by_half(bench, options).items():
                    measured.loads[travel, load].append(values)
        bench.nodes.tell("together", 1)
        memory["after the load"] = bench.memory_mib()
        bench.nodes.connect(options.nodes)
        memory[f"{options.nodes:,} nodes"] = bench.memory_mib()
        held, measured.opened_s, measured.passed_s = bench.hold(options.sessions)
        memory[f"{options.nodes:,} nodes, {options.sessions:,} open sessions"] = held
    return measured


def load_fully_and_by_half(bench: Bench, options: argparse.Namespace) -> dict[str, Values]:
    """The values at full load, and at half of the load that was reached."""
    full = asyncio.run(bench.load(options.streams, options.seconds, ANSWER))
    rate = full["frames_per_s"] / (options.layers - 1) / 2
    half = asyncio.run(bench.load(2 * options.streams, options.seconds, ANSWER, rate))
    return {FULL: full, HALF: half}


def load_figures(measured: Measured, travel: str) -> list[Figure]:
    return [
        Measure(load, unit).of(case, [scale * one[name] for one in rounds], AIMS.get((travel, load, name)))
        for name, (case, unit, scale) in SHOWN.items()
        for (how, load), rounds in measured.loads.items()
        if how == travel
    ]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=3072, help="values of a row, 4 bytes each")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--bundle", type=int, default=8, help="frames that travel together")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=1000, help="nodes that are connected while the memory is measured")
    parser.add_argument(
        "--sessions", type=int, default=1000, help="sessions that are open while the memory is measured"
    )
    options = parser.parse_args()
    report = Report("coordinator", options)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    measured = measure(options)
    case, opening = f"{options.sessions:,} sessions on {options.nodes:,} nodes", Measure("open after", "s")
    report.add(
        {
            f"frames of {options.layers} nodes, alone": load_figures(measured, ALONE),
            f"frames of {options.layers} nodes, in bundles of {options.bundle}": load_figures(measured, TOGETHER),
            "opening sessions": [
                opening.of(case, measured.opened_s, OPENED_AIM),
                Measure("through all layers after", "s").of(case, measured.passed_s),
            ],
            "memory of the coordinator": [MEMORY.of(moment, mib) for moment, mib in measured.memory.items()],
        }
    )
    report.finish(
        frame_bytes=4 * options.hidden,
        rounds={" ".join(key): rounds for key, rounds in measured.loads.items()},
        memory_mib=measured.memory,
        sessions_opened_s=measured.opened_s,
        answers_equal=True,
    )


if __name__ == "__main__":
    main()
