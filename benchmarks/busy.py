"""A node on a machine that its owner begins to use: the speed of one stream beside a busy loop.

    python benchmarks/busy.py [--threads 2] [--quiet 5] [--busy 8] [--after 9]

One answer follows the other all the time. After `--quiet` seconds the benchmark starts a process that only loops, and
ends it `--busy` seconds later. It counts tokens in windows of half a second, and notes the threads that /status shows.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx

from bench.prompts import Prompt, Prompts
from bench.record import Figure, Measure, at_least
from bench.report import Report, options_parser
from bench.streams import Stream, ask, check_answers, open_client
from bench.swarms import temporary_cache
from bench.tables import print_table
from potluck.local import LocalSwarm, demo_model
from potluck.models.sources import open_model
from potluck.node.hardware import physical_cores

WINDOW_S = 0.5
WARM_S = 1.0
LOOP_FOUND_S, CALM_FOUND_S = 2.0, 5.0
"""How long the node may take to react to the start and to the end of the loop."""

SPEED, OVER_QUIET = Measure("tokens/s", "tokens/s"), Measure("relative to quiet", "ratio")
THREADS = Measure("threads", "count")


@dataclass
class Watch:
    """All that was seen in a round, with moments by `time.perf_counter`. threads: (moment, as /status shows)."""

    streams: list[Stream] = field(default_factory=list)
    threads: list[tuple[float, int]] = field(default_factory=list)
    begin: float = 0.0
    loop_begin: float = 0.0
    loop_end: float = 0.0
    end: float = 0.0

    def rate(self, sooner: float, later: float) -> float:
        """The tokens/s between two moments."""
        count = sum(sooner <= moment < later for stream in self.streams for moment in stream.moments)
        return count / (later - sooner)

    def threads_at(self, moment: float) -> int:
        """The number that was shown last before this moment."""
        return next((threads for told, threads in reversed(self.threads) if told <= moment), self.threads[0][1])


async def watch(url: str, model: str, prompt: Prompt, options: argparse.Namespace) -> Watch:
    seen = Watch()
    async with open_client(url) as client:
        stopping = asyncio.Event()
        answering = asyncio.create_task(_answer(client, model, prompt, options.tokens, seen, stopping))
        polling = asyncio.create_task(_poll(client, seen))
        await asyncio.sleep(WARM_S)
        seen.begin = time.perf_counter()
        await asyncio.sleep(options.quiet)
        seen.loop_begin = time.perf_counter()
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as loop:  # noqa: ASYNC220
            try:
                await asyncio.sleep(options.busy)
            finally:
                loop.kill()
        seen.loop_end = time.perf_counter()
        await asyncio.sleep(options.after)
        seen.end = time.perf_counter()
        stopping.set()
        await answering
        polling.cancel()
    return seen


async def _answer(
    client: httpx.AsyncClient, model: str, prompt: Prompt, tokens: int, seen: Watch, stopping: asyncio.Event
) -> None:
    while not stopping.is_set():
        seen.streams.append(await ask(client, model, prompt, tokens))


async def _poll(client: httpx.AsyncClient, seen: Watch) -> None:
    while True:
        status = (await client.get("/status")).json()
        seen.threads.append((time.perf_counter(), status["nodes"][0]["threads"]))
        await asyncio.sleep(WINDOW_S / 2)


class Window(NamedTuple):
    """Half a second of the run. phase: quiet, loop or after. from_s: the seconds since the phase began."""

    phase: str
    from_s: float
    tokens_per_s: float
    threads: int


def windows(seen: Watch) -> list[Window]:
    phases = (
        ("quiet", seen.begin, seen.loop_begin),
        ("loop", seen.loop_begin, seen.loop_end),
        ("after", seen.loop_end, seen.end),
    )
    return [
        Window(phase, start - sooner, seen.rate(start, start + WINDOW_S), seen.threads_at(start + WINDOW_S))
        for phase, sooner, later in phases
        for start in (sooner + number * WINDOW_S for number in range(int((later - sooner) / WINDOW_S)))
    ]


class Phases(NamedTuple):
    """The tokens/s in each phase of a round, once the node has had time to react, and the threads at its end."""

    quiet: float
    loop: float
    after: float
    threads: tuple[int, int, int]

    @classmethod
    def of(cls, seen: Watch) -> Phases:
        return cls(
            seen.rate(seen.begin, seen.loop_begin),
            seen.rate(seen.loop_begin + LOOP_FOUND_S, seen.loop_end),
            seen.rate(seen.loop_end + CALM_FOUND_S, seen.end),
            (seen.threads_at(seen.loop_begin), seen.threads_at(seen.loop_end), seen.threads_at(seen.end)),
        )


def figures_of(rounds: Sequence[Phases]) -> list[Figure]:
    quiet, loop, after = "quiet", f"from {LOOP_FOUND_S:g} s after its start", f"from {CALM_FOUND_S:g} s after its end"
    return [
        SPEED.of(quiet, [one.quiet for one in rounds]),
        THREADS.of(quiet, [one.threads[0] for one in rounds]),
        SPEED.of(loop, [one.loop for one in rounds]),
        OVER_QUIET.of(loop, [one.loop / one.quiet for one in rounds], at_least(0.4)),
        THREADS.of(loop, [one.threads[1] for one in rounds]),
        SPEED.of(after, [one.after for one in rounds]),
        OVER_QUIET.of(after, [one.after / one.quiet for one in rounds], at_least(0.9)),
        THREADS.of(after, [one.threads[2] for one in rounds]),
    ]


def measure(prompt: Prompt, options: argparse.Namespace) -> list[Watch]:
    """Measure so many rounds."""
    rounds: list[Watch] = []
    with temporary_cache(), LocalSwarm(options.model, [], serve=["--local"]) as swarm:
        swarm.add_node("--model", str(options.model), "--threads", str(options.threads))
        model = swarm.wait_covered()["model"]
        for _ in range(options.rounds):
            rounds.append(asyncio.run(watch(swarm.url, model, prompt, options)))
            texts = [stream.text for stream in rounds[-1].streams]
            alone = rounds[0].streams[0].text  # asked while nothing else ran
            check_answers(texts, [alone] * len(texts), "the stream")
    return rounds


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--quiet", type=float, default=5.0)
    parser.add_argument("--busy", type=float, default=8.0)
    parser.add_argument("--after", type=float, default=9.0)
    parser.add_argument("--tokens", type=int, default=96, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.busy <= LOOP_FOUND_S or options.after <= CALM_FOUND_S:
        parser.error(f"--busy must be over {LOOP_FOUND_S:g} and --after over {CALM_FOUND_S:g} seconds.")
    options.model = options.model or demo_model()
    manifest = open_model(options.model)
    [prompt] = Prompts(manifest.vocabulary).take(1, 16)
    report = Report("busy", options)
    seen = measure(prompt, options)
    print_table(
        ["last round", "from", "tokens/s", "threads"],
        [(one.phase, f"{one.from_s:.1f} s", f"{one.tokens_per_s:.0f}", one.threads) for one in windows(seen[-1])],
    )
    report.add({"a busy loop beside one node": figures_of([Phases.of(one) for one in seen])})
    report.finish(
        model=manifest.name,
        rounds=[{**Phases.of(one)._asdict(), "windows": [w._asdict() for w in windows(one)]} for one in seen],
        answers_equal=True,
    )


if __name__ == "__main__":
    main()
