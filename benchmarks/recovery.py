"""How long a reader waits when a node is lost: from its end to the next token, and what is computed for it.

    python benchmarks/recovery.py [--context 500] [--rounds 3] [--away 20]

SmolLM2 on six nodes, every layer twice, one stream. In turns each span's serving node is killed with SIGKILL, and then
frozen with SIGSTOP. At last the coordinator is killed, and comes back after a while. Ends with an error when an answer
differs by a byte from the undisturbed one.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from common import (
    Prompt,
    Prompts,
    ask,
    ask_whole,
    begin,
    check_answers,
    open_client,
    print_aim,
    print_json,
    print_table,
)
from potluck.coordinator.text.opening import open_tokenizer
from potluck.local import LocalSwarm, Process, demo_model
from potluck.models.sources import open_model
from potluck.types import MAX_STEP_ROWS, Span, even_spans

TOKENS = 160
BEFORE = 8
"""Tokens that come, at least, before the node is lost."""


class Swarm:
    """Every layer twice; nodes by name."""

    def __init__(self, local: LocalSwarm, spans: list[Span]) -> None:
        self.local = local
        self.spans = spans
        self.nodes = {f"{span}{copy}": self._start(span, f"{span}{copy}") for copy in "ab" for span in spans}
        self.model: str = local.wait_covered()["model"]

    def _start(self, span: Span, name: str) -> Process:
        return self.local.add_node(str(span), "--name", name)

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
        """How many there are so far."""
        return int(self.trace(session=0)["count"])  # sessions count from 1: an empty timeline is enough here

    def wait_for_hops(self, least: int) -> int:
        """How many there are when there are at least so many."""
        while (count := self.hops()) < least:
            time.sleep(0.01)
        return count

    def rows(self, after: int) -> dict[str, int]:
        """Computed by each node since so many hops; what came from a journal was not computed."""
        rows = Counter[str]()
        timeline = self.trace(after=after)["traceEvents"]
        nodes = {event["pid"]: event["args"]["name"] for event in timeline if event["name"] == "process_name"}
        for event in timeline:
            if event["name"] == "compute":
                rows[nodes[event["pid"]].partition(":")[0]] += event["args"]["rows"]
        return dict(rows)


async def lose(
    swarm: Swarm, span: Span, sign: signal.Signals, prompt: Prompt, text: str
) -> tuple[float, dict[str, int]]:
    """The longest pause in seconds after the signal, and the rows that each node computed from then to the end."""
    begun = swarm.hops() + (len(prompt) // MAX_STEP_ROWS + 1 + BEFORE) * len(swarm.spans)
    async with open_client(swarm.local.url) as client:
        answer = asyncio.create_task(ask(client, swarm.model, prompt, TOKENS))
        count = await asyncio.to_thread(swarm.wait_for_hops, begun)
        victim = swarm.nodes[await asyncio.to_thread(swarm.serving, span)]
        victim.popen.send_signal(sign)
        lost = time.perf_counter()
        stream = await answer
    check_answers([stream.text], [text], f"the answer that lost layers {span}")
    pauses = [later - max(sooner, lost) for sooner, later in pairwise(stream.moments) if later > lost]
    if not pauses:
        sys.exit("The answer ended before the node was lost: ask for more tokens.")
    return max(pauses), swarm.rows(count)


def bring_back(swarm: Swarm, sign: signal.Signals, span: Span) -> None:
    """All nodes serve again."""
    for name, node in swarm.nodes.items():
        if sign is signal.SIGSTOP:
            node.popen.send_signal(signal.SIGCONT)
        elif node.popen.poll() is not None:
            swarm.restart(name, span)
    swarm.local.wait_covered()


def restart_coordinator(swarm: Swarm, path: Path, away_s: float) -> float:
    """Seconds from when it listens again until all layers are served. Ends the program where a node loads anew."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--away", type=float, default=20.0, help="seconds without a coordinator")
    arguments = parser.parse_args()
    begin()
    path = demo_model()
    prompts = Prompts(open_tokenizer(path).vocabulary)
    table, waits = [], dict[str, list[float]]()
    with LocalSwarm(path, [], serve=["--local", "--audit", "0"], join=["--model", str(path)]) as local:
        swarm = Swarm(local, even_spans(open_model(path).layers, 3))
        for sign in (signal.SIGKILL, signal.SIGSTOP):
            for span in swarm.spans * arguments.rounds:
                [prompt] = prompts.take(1, arguments.context)
                _, text = ask_whole(local.url, swarm.model, prompt, TOKENS)
                wait, rows = asyncio.run(lose(swarm, span, sign, prompt, text))
                bring_back(swarm, sign, span)
                waits.setdefault(sign.name, []).append(wait)
                told = ", ".join(f"{name}: {count}" for name, count in sorted(rows.items()))
                table.append((sign.name, span, f"{wait:.2f} s", told))
        restart_s = restart_coordinator(swarm, path, arguments.away)
    print_table(("signal", "layers", "longest pause", "rows computed from then to the end"), table)
    killed, frozen = statistics.median(waits["SIGKILL"]), max(waits["SIGSTOP"])
    print_json(
        "recovery",
        context=arguments.context,
        killed_s=print_aim("killed, median", killed, below=1.0),
        frozen_s=print_aim("frozen, longest", frozen, below=3.0),
        restart_s=print_aim("the coordinator back, until all is served", restart_s, below=5.0),
        all=waits,
    )


if __name__ == "__main__":
    main()
