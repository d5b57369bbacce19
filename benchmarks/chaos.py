"""Nodes die, freeze and lose their sockets while many streams run, and no answer may change.

    python benchmarks/chaos.py [--seconds 120] [--streams 16] [--every 4] [--seed 0] [--audit 0.02] [--plain]
        [--guess random|right:0.8]

SmolLM2 runs on six nodes, so that two nodes have each layer. Every few seconds one of them, chosen at random, is killed
with SIGKILL and started again, stopped with SIGSTOP for some seconds, or cut off. Each stream asks the same question
again and again. The benchmark ends with an error if an answer breaks off or differs by a byte from the same answer
before the chaos, or if an audit finds fault with a node, because all of them are honest. With --plain the weights are
Q4_0 and the second node of each layer has the plain layout, which computes other bits. Then answers that differ are
only counted. With --guess every answer has 15 guesses under way besides its last token, whether they pay or not:
random tokens, or the right ones with some errors (see bench/guesses.py). The answers before the chaos have none.
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

from bench.engines import Engines
from bench.guessed import Counts, scripted_swarm
from bench.guesses import Script
from bench.links import SlowLink
from bench.prompts import Prompt, Prompts
from bench.record import Figure, Measure, below
from bench.report import Report, options_parser
from bench.rounds import percentile
from bench.smaller import KINDS, requantized
from bench.streams import Stream, all_gaps, ask, ask_in_turn, open_client
from bench.swarms import forbid_optimised
from potluck.coordinator.text.opening import open_tokenizer
from potluck.local import LocalSwarm, Process, demo_model
from potluck.models.sources import open_model
from potluck.types import Span, even_spans

TOKENS = 64
LEAST_PROMPT, MOST_PROMPT = 16, 64
FREEZE_S = 4.0
SPANS = 3

COUNT, PAUSE, SPEED = Measure("result", "count"), Measure("result", "s"), Measure("result", "tokens/s")


DISTURBANCES = {"kill": "nodes killed", "freeze": "nodes frozen", "cut": "lines cut"}


class Line(SlowLink):
    """The connections of a node, which can be cut."""

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
    """A swarm with two nodes for every layer."""

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
            seat, what = chance.choice(swarm.seats), chance.choice(list(DISTURBANCES))
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
    """Ask the same question again and again."""
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
    """The number of sessions that nodes hold and the coordinator does not know."""
    return sum(abs(node["held"] - node["sessions"] - node["parked"]) for node in status["nodes"])


@dataclass
class Outcome:
    """The outcome of a run. quiet: the answer to each prompt before the chaos. status: the one after it."""

    quiet: list[str]
    answers: list[list[Stream]]
    done: Counter[str]
    status: dict[str, Any]
    counts: Counts

    @property
    def streams(self) -> list[Stream]:
        return [stream for asked in self.answers for stream in asked]

    @property
    def differ(self) -> int:
        pairs = zip(self.answers, self.quiet, strict=True)
        return sum(stream.text != text for streams, text in pairs for stream in streams)

    @property
    def faults(self) -> int:
        return int(self.status["audits_failed"] + self.status["audits_undecided"])

    def check(self, *, plain: bool) -> None:
        """End the program if an answer changed without a reason, or an honest node was accused."""
        if self.differ and not plain:
            sys.exit(f"{self.differ} answers were not those of a quiet swarm.")
        if self.faults:
            sys.exit(f"{self.faults} audits found fault with honest nodes.")


def scripted(model: Path, prompts: list[Prompt], options: argparse.Namespace) -> Script:
    """How to guess during the chaos."""
    with Engines(model, [Span(0, open_model(model).layers - 1)], 1, len(prompts)) as engine:
        answers = engine.answer(prompts, TOKENS).ids
    texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    return Script(options.guess, deep=True, seed=options.seed, texts=texts)


def run(options: argparse.Namespace) -> Outcome:
    lengths = random.Random(options.seed)
    source = Prompts(open_tokenizer(demo_model()).vocabulary, options.seed)
    prompts = [source.take(1, lengths.randint(LEAST_PROMPT, MOST_PROMPT))[0] for _ in range(options.streams)]
    with ExitStack() as stack:
        cache = stack.enter_context(TemporaryDirectory())
        path = requantized(demo_model(), KINDS["Q4_0"], Path(cache)) if options.plain else demo_model()
        serve = ["--local", "--audit", str(options.audit)]
        if options.guess:
            script = scripted(path, prompts, options)
            local, file = stack.enter_context(scripted_swarm(path, serve))
        else:
            local = stack.enter_context(LocalSwarm(path, [], serve=serve))
        swarm, done = Swarm(local, path), Counter[str]()
        spans = even_spans(open_model(path).layers, SPANS)
        forbid_optimised(path, spans, Path(cache))
        for copy, env in (("a", {}), ("b", {"POTLUCK_CACHE": cache} if options.plain else {})):
            for span in spans:
                swarm.sit(span, f"{span}{copy}", env)
        model = local.wait_covered()["model"]
        quiet = [stream.text for stream in ask_in_turn(local.url, model, prompts, TOKENS)]
        if options.guess:
            script.write(file)
        answers = asyncio.run(chaos(swarm, model, prompts, options.seconds, options.every, options.seed, done))
        local.wait_covered()
        status = local.wait_until(lambda status: leaked(status) == 0)
        return Outcome(quiet, answers, done, status, Counts.settled(local.url))


def figures_of(outcome: Outcome, seconds: float) -> list[Figure]:
    tokens = sum(len(stream.moments) for stream in outcome.streams)
    return [
        *(COUNT.of(name, outcome.done[what]) for what, name in DISTURBANCES.items()),
        COUNT.of("answers, all of them whole", len(outcome.streams)),
        COUNT.of("answers with other words", outcome.differ),
        COUNT.of("guesses", outcome.counts.guesses),
        COUNT.of("sessions that were leaked", leaked(outcome.status), below(1)),
        COUNT.of("audits that passed", outcome.status["audits_passed"]),
        COUNT.of("audits that found fault", outcome.faults, below(1)),
        SPEED.of("speed of all streams", tokens / seconds),
        PAUSE.of("longest pause in an answer", max(all_gaps(outcome.streams))),
    ]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--every", type=float, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--audit", type=float, default=0.02, help="the rate of audits, as of potluck serve")
    parser.add_argument("--guess", help="how to guess: random, or right:0.8 for so many right ones")
    parser.add_argument("--plain", action="store_true", help="run half of the nodes with the plain weight layout")
    options = parser.parse_args()
    report = Report("chaos", options)
    outcome = run(options)
    outcome.check(plain=options.plain)
    heading = f"{options.streams} streams for {options.seconds:g} s"
    kind = options.guess.partition(":")[0] if options.guess else ""
    part = "-".join(filter(None, ("plain" if options.plain else "", kind and f"guess-{kind}")))
    report.add({heading: figures_of(outcome, options.seconds)}, part)
    gaps = all_gaps(outcome.streams)
    report.finish(
        answers=len(outcome.streams),
        differ=outcome.differ,
        leaked=leaked(outcome.status),
        audits=outcome.status["audits_passed"],
        counts=outcome.counts._asdict(),
        **{what: outcome.done[what] for what in DISTURBANCES},
        gap_p50_s=percentile(gaps, 50),
        gap_p99_s=percentile(gaps, 99),
        gap_max_s=max(gaps),
    )


if __name__ == "__main__":
    main()
