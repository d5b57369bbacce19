"""One node on a machine that its owner begins to use: tokens/s of one stream while a busy loop runs beside it.

    python benchmarks/busy.py [--threads 2] [--quiet 5] [--busy 8] [--after 9]

One answer follows the other all the time. After `--quiet` seconds a process that only loops is started, and ended
`--busy` seconds later. Tokens are counted in windows of half a second, and so are the threads that /status tells.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from common import (
    Prompt,
    Prompts,
    Stream,
    ask,
    begin,
    check_answers,
    open_client,
    print_aim,
    print_json,
    print_table,
    temporary_cache,
)
from potluck.local import LocalSwarm, demo_model
from potluck.models.sources import open_model
from potluck.node.hardware import physical_cores

WINDOW_S = 0.5
WARM_S = 1.0
LOOP_FOUND_S, CALM_FOUND_S = 2.0, 5.0
"""How long after the loop's start and end the node may take to follow."""


@dataclass
class Watch:
    """All that was seen, by `time.perf_counter`. threads: (moment, as /status tells)."""

    streams: list[Stream] = field(default_factory=list)
    threads: list[tuple[float, int]] = field(default_factory=list)
    begin: float = 0.0
    loop_begin: float = 0.0
    loop_end: float = 0.0
    end: float = 0.0

    def rate(self, sooner: float, later: float) -> float:
        """Tokens/s between two moments."""
        count = sum(sooner <= moment < later for stream in self.streams for moment in stream.moments)
        return count / (later - sooner)

    def threads_at(self, moment: float) -> int:
        """As told last before this moment."""
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


def windows(seen: Watch) -> list[dict[str, float | str]]:
    rows: list[dict[str, float | str]] = []
    for phase, sooner, later in (
        ("quiet", seen.begin, seen.loop_begin),
        ("loop", seen.loop_begin, seen.loop_end),
        ("after", seen.loop_end, seen.end),
    ):
        for number in range(int((later - sooner) / WINDOW_S)):
            start = sooner + number * WINDOW_S
            rows.append(
                {
                    "phase": phase,
                    "from_s": number * WINDOW_S,
                    "tokens_per_s": seen.rate(start, start + WINDOW_S),
                    "threads": seen.threads_at(start + WINDOW_S),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--quiet", type=float, default=5.0)
    parser.add_argument("--busy", type=float, default=8.0)
    parser.add_argument("--after", type=float, default=9.0)
    parser.add_argument("--tokens", type=int, default=96, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.busy <= LOOP_FOUND_S or options.after <= CALM_FOUND_S:
        parser.error(f"--busy must be over {LOOP_FOUND_S:g} and --after over {CALM_FOUND_S:g} seconds.")
    path = options.model or demo_model()
    manifest = open_model(path)
    [prompt] = Prompts(manifest.vocabulary).take(1, 16)
    begin()
    rounds = []
    with temporary_cache(), LocalSwarm(path, [], serve=["--local"]) as swarm:
        swarm.add_node("--model", str(path), "--threads", str(options.threads))
        model = swarm.wait_covered()["model"]
        alone: str | None = None
        for _ in range(options.rounds):
            seen = asyncio.run(watch(swarm.url, model, prompt, options))
            texts = [stream.text for stream in seen.streams]
            alone = texts[0] if alone is None else alone  # asked while nothing else ran
            check_answers(texts, [alone] * len(texts), "the stream")
            rounds.append(
                {
                    "quiet": seen.rate(seen.begin, seen.loop_begin),
                    "loop_at_once": seen.rate(seen.loop_begin, seen.loop_begin + LOOP_FOUND_S),
                    "loop": seen.rate(seen.loop_begin + LOOP_FOUND_S, seen.loop_end),
                    "after_at_once": seen.rate(seen.loop_end, seen.loop_end + CALM_FOUND_S),
                    "after": seen.rate(seen.loop_end + CALM_FOUND_S, seen.end),
                    "threads_quiet": seen.threads_at(seen.loop_begin),
                    "threads_loop": seen.threads_at(seen.loop_end),
                    "threads_after": seen.threads_at(seen.end),
                    "windows": windows(seen),
                }
            )
    print_table(
        ["last round", "from", "tokens/s", "threads"],
        [
            [one["phase"], f"{one['from_s']:.1f} s", f"{one['tokens_per_s']:.0f}", one["threads"]]
            for one in rounds[-1]["windows"]
        ],
    )
    header = ["quiet", "loop_at_once", "loop", "after_at_once", "after"]
    print_table(
        ["round", *(name.replace("_", " ") for name in header), "threads"],
        [
            [
                number,
                *(f"{one[name]:.1f}" for name in header),
                "/".join(str(one[f"threads_{phase}"]) for phase in ("quiet", "loop", "after")),
            ]
            for number, one in enumerate(rounds, 1)
        ],
    )
    ratios = {
        "loop_over_quiet": print_aim(
            f"from {LOOP_FOUND_S:g} s after the loop's start on, over quiet",
            statistics.median(one["loop"] / one["quiet"] for one in rounds),
            at_least=0.4,
        ),
        "after_over_quiet": print_aim(
            f"from {CALM_FOUND_S:g} s after its end on, over quiet",
            statistics.median(one["after"] / one["quiet"] for one in rounds),
            at_least=0.9,
        ),
    }
    print_json("busy", model=manifest.name, threads=options.threads, rounds=rounds, ratios=ratios, answers_equal=True)


if __name__ == "__main__":
    main()
