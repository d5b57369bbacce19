"""Nodes die, freeze and lose their sockets while many streams run: does every answer stay what it is?

    python benchmarks/chaos.py [--seconds 120] [--streams 16] [--every 4] [--seed 0] [--audit 0.02] [--plain]

SmolLM2 on six nodes, every layer twice. Every few seconds one of them, chosen at random, is killed with SIGKILL and
started again, stopped with SIGSTOP for some seconds, or cut off. Each stream asks the same again and again. Ends with
an error when an answer breaks off, or differs by a byte from the same answer before the chaos, or when an audit finds
fault with a node: all are honest. With --plain the weights are Q4_0 and each layer's second node has the plain layout,
which computes other bits: answers that differ are counted then.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import socket
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from calibrate import KINDS, requantized
from common import (
    Prompt,
    Prompts,
    SlowLink,
    Stream,
    ask,
    ask_in_turn,
    begin,
    forbid_optimised,
    open_client,
    percentile,
    print_json,
    print_table,
)
from potluck.coordinator.tokenizer import open_tokenizer
from potluck.local import LocalSwarm, Process, demo_model
from potluck.models.sources import open_model
from potluck.types import Span, even_spans

TOKENS = 64
LEAST_PROMPT, MOST_PROMPT = 16, 64
FREEZE_S = 4.0
SPANS = 3


class Line(SlowLink):
    """A node's connections, which can be cut."""

    def __init__(self, url: str) -> None:
        self._sockets: list[socket.socket] = []
        super().__init__(url)

    def start(self, source: socket.socket, sink: socket.socket) -> None:
        self._sockets.append(source)
        super().start(source, sink)

    def cut(self) -> None:
        for one in self._sockets:
            with suppress(OSError):  # the other end was quicker
                one.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()


@dataclass
class Seat:
    """A place in the swarm: a span, the line of its node, and the process that serves it now."""

    span: Span
    name: str
    line: Line
    node: Process
    env: dict[str, str]


@dataclass
class Swarm:
    """Every layer twice."""

    local: LocalSwarm
    model: Path
    seats: list[Seat] = field(default_factory=list)

    def sit(self, span: Span, name: str, env: dict[str, str]) -> None:
        line = Line(self.local.url)
        self.seats.append(Seat(span, name, line, self._start(span, name, line, env), env))

    def _start(self, span: Span, name: str, line: Line, env: dict[str, str]) -> Process:
        arguments = (str(span), "--threads", "1", "--model", str(self.model), "--name", name)
        return self.local.add_node(*arguments, url=line.url, **env)

    def kill(self, seat: Seat) -> None:
        seat.node.popen.kill()
        seat.node.wait()
        seat.node = self._start(seat.span, seat.name, seat.line, seat.env)


async def disturb(swarm: Swarm, deadline: float, every_s: float, chance: random.Random, done: Counter[str]) -> None:
    frozen: list[Process] = []
    try:
        while time.monotonic() < deadline:
            await asyncio.sleep(every_s * chance.uniform(0.7, 1.3))
            seat, what = chance.choice(swarm.seats), chance.choice(["kill", "freeze", "cut"])
            done[what] += 1
            if what == "kill":
                await asyncio.to_thread(swarm.kill, seat)
            elif what == "cut":
                seat.line.cut()
            else:
                seat.node.popen.send_signal(signal.SIGSTOP)
                frozen.append(seat.node)
                asyncio.get_running_loop().call_later(FREEZE_S, seat.node.popen.send_signal, signal.SIGCONT)
    finally:
        for node in frozen:
            node.popen.send_signal(signal.SIGCONT)


async def ask_until(deadline: float, url: str, model: str, prompt: Prompt) -> list[Stream]:
    """The same again and again."""
    answers: list[Stream] = []
    async with open_client(url) as client:
        while time.monotonic() < deadline:
            answers.append(await ask(client, model, prompt, TOKENS))
    return answers


async def chaos(
    swarm: Swarm, model: str, prompts: list[Prompt], seconds: float, every_s: float, seed: int, done: Counter[str]
) -> list[list[Stream]]:
    deadline = time.monotonic() + seconds
    monkey = asyncio.create_task(disturb(swarm, deadline, every_s, random.Random(seed), done))
    try:
        return await asyncio.gather(*(ask_until(deadline, swarm.local.url, model, prompt) for prompt in prompts))
    finally:
        monkey.cancel()
        await asyncio.gather(monkey, return_exceptions=True)


def leaked(status: dict[str, Any]) -> int:
    """Sessions that nodes hold and nobody knows of."""
    return sum(abs(node["held"] - node["sessions"] - node["parked"]) for node in status["nodes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--every", type=float, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--audit", type=float, default=0.02, help="as of potluck serve")
    parser.add_argument("--plain", action="store_true", help="half of the nodes without optimised weight layouts")
    arguments = parser.parse_args()
    begin()
    lengths = random.Random(arguments.seed)
    source = Prompts(open_tokenizer(demo_model()).vocabulary, arguments.seed)
    prompts = [source.take(1, lengths.randint(LEAST_PROMPT, MOST_PROMPT))[0] for _ in range(arguments.streams)]
    with ExitStack() as stack:
        cache = stack.enter_context(TemporaryDirectory())
        path = requantized(demo_model(), KINDS["Q4_0"], Path(cache)) if arguments.plain else demo_model()
        local = stack.enter_context(LocalSwarm(path, [], serve=["--local", "--audit", str(arguments.audit)]))
        swarm, done = Swarm(local, path), Counter[str]()
        forbid_optimised(path, SPANS, Path(cache))
        for copy, env in (("a", {}), ("b", {"POTLUCK_CACHE": cache} if arguments.plain else {})):
            for span in even_spans(open_model(path).layers, SPANS):
                swarm.sit(span, f"{span}{copy}", env)
        model = local.wait_covered()["model"]
        quiet = [stream.text for stream in ask_in_turn(local.url, model, prompts, TOKENS)]
        answers = asyncio.run(chaos(swarm, model, prompts, arguments.seconds, arguments.every, arguments.seed, done))
        differ = sum(stream.text != text for streams, text in zip(answers, quiet, strict=True) for stream in streams)
        if differ and not arguments.plain:
            sys.exit(f"{differ} answers were not those of a quiet swarm.")
        local.wait_covered()
        status = local.wait_until(lambda status: leaked(status) == 0)
    faults = status["audits_failed"] + status["audits_undecided"]
    if faults:
        sys.exit(f"{faults} audits found fault with honest nodes.")
    streams = [stream for asked in answers for stream in asked]
    gaps = [gap for stream in streams for gap in stream.gaps]
    figures = {
        "answers": len(streams),
        "differ": differ,
        "leaked": leaked(status),
        "audits": status["audits_passed"],
        **{what: done[what] for what in ("kill", "freeze", "cut")},
        "tokens_per_s": sum(len(stream.moments) for stream in streams) / arguments.seconds,
        "gap_p50_s": percentile(gaps, 0.5),
        "gap_p99_s": percentile(gaps, 0.99),
        "gap_max_s": max(gaps),
    }
    print_table(
        ("", ""), [(name, value if isinstance(value, int) else f"{value:.3f}") for name, value in figures.items()]
    )
    print_json("chaos", plain=arguments.plain, **figures)


if __name__ == "__main__":
    main()
