"""How long a reader waits when a node is lost: from its end to the next token, and what is computed for it.

    python benchmarks/recovery.py [--context 500] [--rounds 3]

SmolLM2 on six nodes, every layer twice, one stream. In turns each span's serving node is killed with SIGKILL, and then
frozen with SIGSTOP. Ends with an error when an answer differs by a byte from the undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import time
from collections import Counter
from typing import Any

import httpx

from common import Prompt, Prompts, ask_whole, begin, check_answers, print_aim, print_json, print_table, request
from potluck.coordinator.tokenizer import open_tokenizer
from potluck.local import LocalSwarm, Process, demo_model
from potluck.models.sources import open_model
from potluck.types import Span, even_spans

TOKENS = 48
BEFORE = 8
"""Tokens that come before the node is lost."""


class Swarm:
    """Every layer twice; nodes by name."""

    def __init__(self, local: LocalSwarm, spans: list[Span]) -> None:
        self.local = local
        self.spans = spans
        self.nodes = {f"{span}{copy}": self._start(span, f"{span}{copy}") for copy in "ab" for span in spans}
        self.model: str = local.wait_covered()["model"]

    def _start(self, span: Span, name: str) -> Process:
        return self.local.add_node(str(span), "--threads", "1", "--name", name)

    def serving(self, span: Span) -> str:
        nodes = self.local.status()["nodes"]
        return next(str(node["name"]) for node in nodes if node["sessions"] and node["span"] == str(span))

    def restart(self, name: str, span: Span) -> None:
        self.nodes[name].wait()
        self.nodes[name] = self._start(span, name)
        self.local.wait_covered()

    def trace(self, after: int) -> dict[str, Any]:
        reply: dict[str, Any] = httpx.get(f"{self.local.url}/trace", params={"after": after}, timeout=60).json()
        return reply

    def rows(self, after: int) -> dict[str, int]:
        """Computed by each node since so many hops; what came from a journal was not computed."""
        rows = Counter[str]()
        timeline = self.trace(after)["traceEvents"]
        threads = {(one["pid"], one.get("tid")): one["args"]["name"] for one in timeline if one["ph"] == "M"}
        for one in timeline:
            if one["ph"] == "X" and one["name"].startswith("compute") and one["dur"] > 0:
                rows[threads.get((one["pid"], None), threads.get((one["pid"], one["tid"]), "?"))] += one["args"]["rows"]
        return dict(rows)


def lose(swarm: Swarm, span: Span, sign: signal.Signals, prompt: Prompt, text: str) -> tuple[float, int]:
    """Seconds from the signal to the next token, and rows that all nodes computed after it for what was there."""
    body = request(swarm.model, prompt, TOKENS)
    pieces: list[str] = []
    lost = waited = 0.0
    victim = ""
    before = 0
    with httpx.stream("POST", f"{swarm.local.url}/v1/completions", json=body, timeout=600, trust_env=False) as reply:
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            if lost and not waited:
                waited = time.perf_counter() - lost
            pieces.append(json.loads(line[6:])["choices"][0]["text"])
            if len(pieces) == BEFORE:
                victim = swarm.serving(span)
                before = swarm.trace(0)["count"]
                swarm.nodes[victim].popen.send_signal(sign)
                lost = time.perf_counter()
                waited = 0.0
    check_answers(["".join(pieces)], [text], f"the answer that lost {victim}")
    rows = sum(swarm.rows(before).values())
    if sign is signal.SIGSTOP:
        swarm.nodes[victim].popen.send_signal(signal.SIGCONT)
        swarm.local.wait_covered()
    else:
        swarm.restart(victim, span)
    return waited, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    begin()
    path = demo_model()
    prompts = Prompts(open_tokenizer(path).vocabulary)
    table, waits = [], dict[str, list[float]]()
    with LocalSwarm(path, [], serve=["--host", "127.0.0.1"], join=["--model", str(path)]) as local:
        swarm = Swarm(local, even_spans(open_model(path).layers, 3))
        for sign in (signal.SIGKILL, signal.SIGSTOP):
            for span in swarm.spans * arguments.rounds:
                [prompt] = prompts.take(1, arguments.context)
                _, text = ask_whole(local.url, swarm.model, prompt, TOKENS)
                wait, rows = lose(swarm, span, sign, prompt, text)
                waits.setdefault(sign.name, []).append(wait)
                table.append((sign.name, span, f"{wait:.2f} s", rows))
    print_table(("signal", "layers", "until the next token", "rows computed after it, all nodes"), table)
    killed, frozen = statistics.median(waits["SIGKILL"]), max(waits["SIGSTOP"])
    print_json(
        "recovery",
        context=arguments.context,
        killed_s=print_aim("killed, median", killed, below=1.0),
        frozen_s=print_aim("frozen, longest", frozen, below=3.0),
        all=waits,
    )


if __name__ == "__main__":
    main()
