"""How long a reader waits for the next token when a node is lost, and what is computed for it.

    python benchmarks/recovery.py [--context 500] [--rounds 3] [--away 20]

SmolLM2 runs on six nodes, two for each layer, and answers one stream. The node that serves each span is killed with
SIGKILL in turns, and later frozen with SIGSTOP. At the end the coordinator is killed and comes back after a while. The
benchmark ends with an error if an answer differs by a byte from the undisturbed one.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from msgspec.structs import replace

from bench.prompts import Prompt, Prompts
from bench.record import Figure, Measure, below, rounded
from bench.report import Report, options_parser
from bench.streams import ask, ask_whole, check_answers, open_client
from bench.tables import print_table
from potluck.coordinator.text.opening import open_tokenizer
from potluck.local import LocalSwarm, Process, demo_model
from potluck.models.sources import open_model
from potluck.types import MAX_STEP_ROWS, Span, even_spans

TOKENS = 160
COPIES = "ab"
BEFORE = 8
"""The least number of tokens that come before the node is lost."""

PAUSE, ROWS = Measure("longest pause", "s"), Measure("rows", "count")


class Swarm:
    """A swarm with two nodes for every layer. nodes: by name."""

    def __init__(self, local: LocalSwarm, spans: list[Span]) -> None:
        self.local = local
        self.spans = spans
        self.nodes = {f"{span}{copy}": self._start(span, f"{span}{copy}") for copy in COPIES for span in spans}
        self.model: str = local.wait_covered()["model"]

    def _start(self, span: Span, name: str) -> Process:
        return self.local.add_node(str(span), "--name", name)

    def holders(self, span: Span) -> set[str]:
        return {f"{span}{copy}" for copy in COPIES}

    def serving(self, span: Span) -> str:
        nodes = self.local.status()["nodes"]
        return next(str(node["name"]) for node in nodes if node["sessions"] and node["span"] == str(span))

    def restart(self, name: str, span: Span) -> None:
        self.nodes[name].wait()
        self.nodes[name] = self._start(span, name)
        self.local.wait_covered()

    def trace(self, **asked: int) -> dict[str, Any]:
        reply: dict[str, Any] = httpx.get(f"{self.local.url}/trace", params=asked, timeout=60).json()
        return reply

    def hops(self) -> int:
        """The number of hops so far."""
        return int(self.trace(session=0)["count"])  # sessions count from 1: an empty timeline is enough here

    def wait_for_hops(self, least: int) -> int:
        """Wait until there are at least so many hops. Returns their number."""
        while (count := self.hops()) < least:
            time.sleep(0.01)
        return count

    def rows(self, after: int) -> dict[str, int]:
        """The rows that each node has computed since so many hops; what came from a journal was not computed."""
        rows = Counter[str]()
        timeline = self.trace(after=after)["traceEvents"]
        nodes = {event["pid"]: event["args"]["name"] for event in timeline if event["name"] == "process_name"}
        for event in timeline:
            if event["name"] == "compute":
                rows[nodes[event["pid"]].partition(":")[0]] += event["args"]["rows"]
        return dict(rows)


@dataclass
class Loss:
    """The loss of a node during an answer.

    pause_s: the longest wait for a next token after the loss. rows: what each node computed from the loss to the end of
    the answer. heir_rows: the part of the node that took over. other_rows: those of the nodes with other layers.
    """

    span: Span
    pause_s: float
    rows: dict[str, int]
    heir_rows: int
    other_rows: list[int]


async def lose(swarm: Swarm, span: Span, sign: signal.Signals, prompt: Prompt, text: str) -> Loss:
    begun = swarm.hops() + (len(prompt) // MAX_STEP_ROWS + 1 + BEFORE) * len(swarm.spans)
    async with open_client(swarm.local.url) as client:
        answer = asyncio.create_task(ask(client, swarm.model, prompt, TOKENS))
        count = await asyncio.to_thread(swarm.wait_for_hops, begun)
        victim = await asyncio.to_thread(swarm.serving, span)
        swarm.nodes[victim].popen.send_signal(sign)
        lost = time.perf_counter()
        stream = await answer
    check_answers([stream.text], [text], f"the answer that lost layers {span}")
    pauses = [later - max(sooner, lost) for sooner, later in pairwise(stream.moments) if later > lost]
    if not pauses:
        sys.exit("The answer ended before the node was lost: ask for more tokens.")
    rows = swarm.rows(count)
    [heir] = swarm.holders(span) - {victim}
    others = swarm.nodes.keys() & rows.keys() - swarm.holders(span)
    return Loss(span, max(pauses), rows, rows[heir], [rows[name] for name in others])


def bring_back(swarm: Swarm, sign: signal.Signals, span: Span) -> None:
    """Make all nodes serve again."""
    for name, node in swarm.nodes.items():
        if sign is signal.SIGSTOP:
            node.popen.send_signal(signal.SIGCONT)
        elif node.popen.poll() is not None:
            swarm.restart(name, span)
    swarm.local.wait_covered()


def restart_coordinator(swarm: Swarm, path: Path, away_s: float) -> float:
    """The seconds from when it listens again until all layers are served. Ends the program if a node loads again."""
    coordinator = swarm.local.coordinator
    coordinator.popen.kill()
    coordinator.wait()
    time.sleep(away_s)  # meanwhile the nodes' pauses grow
    port = swarm.local.url.rpartition(":")[2]
    with Process(["serve", str(path), "--local", "--port", port]) as again:
        again.wait_for("http://")
        listening = time.perf_counter()
        swarm.local.wait_covered()
        seconds = time.perf_counter() - listening
    for name, node in swarm.nodes.items():
        if sum("Loading layers" in line for line in node.lines) != 1:
            sys.exit(f"Node {name} loaded its layers again.")
    return seconds


def lose_each(swarm: Swarm, options: argparse.Namespace) -> dict[signal.Signals, list[Loss]]:
    """Kill each span's node in each round, and later freeze each of them in each round."""
    prompts = Prompts(open_tokenizer(demo_model()).vocabulary)
    losses: dict[signal.Signals, list[Loss]] = {signal.SIGKILL: [], signal.SIGSTOP: []}
    for sign, known in losses.items():
        for span in swarm.spans * options.rounds:
            [prompt] = prompts.take(1, options.context)
            _, text = ask_whole(swarm.local.url, swarm.model, prompt, TOKENS)
            known.append(asyncio.run(lose(swarm, span, sign, prompt, text)))
            bring_back(swarm, sign, span)
    return losses


def print_losses(losses: dict[signal.Signals, list[Loss]]) -> None:
    print_table(
        ("signal", "layers", "longest pause", "rows computed from then to the end"),
        [
            (sign.name, one.span, f"{one.pause_s:.2f} s", ", ".join(f"{n}: {r}" for n, r in sorted(one.rows.items())))
            for sign, known in losses.items()
            for one in known
        ],
    )


def pause_figures(killed: list[float], frozen: list[float], restart_s: float, away_s: float) -> list[Figure]:
    """The pauses. For killed nodes the median counts. For frozen ones the longest counts, as most of it is silence."""
    return [
        PAUSE.of("node killed (median)", killed, below(1)),
        replace(PAUSE.of("node frozen (longest)", frozen, below(3)), value=rounded(max(frozen))),
        PAUSE.of(f"coordinator killed for {away_s:g} s, until all is served again", restart_s, below(5)),
    ]


def row_figures(losses: list[Loss]) -> list[Figure]:
    return [
        ROWS.of("the node that took over", [one.heir_rows for one in losses]),
        ROWS.of("each other node", [rows for one in losses for rows in one.other_rows]),
    ]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--context", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--away", type=float, default=20.0, help="seconds without a coordinator")
    options = parser.parse_args()
    report = Report("recovery", options)
    path = demo_model()
    with LocalSwarm(path, [], serve=["--local", "--audit", "0"], join=["--model", str(path)]) as local:
        swarm = Swarm(local, even_spans(open_model(path).layers, 3))
        losses = lose_each(swarm, options)
        restart_s = restart_coordinator(swarm, path, options.away)
    print_losses(losses)
    pauses = {sign: [one.pause_s for one in known] for sign, known in losses.items()}
    report.add(
        {
            "what is lost": pause_figures(pauses[signal.SIGKILL], pauses[signal.SIGSTOP], restart_s, options.away),
            "computed from the loss to the end": row_figures([one for known in losses.values() for one in known]),
        }
    )
    report.finish(restart_s=restart_s, pauses={sign.name: values for sign, values in pauses.items()})


if __name__ == "__main__":
    main()
