"""A coordinator with simulated nodes, and clients that ask it one question after the other."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import httpx
import psutil

from bench.rounds import Values
from bench.streams import ask, check_answers, open_client
from simulated.model import FIRST_TOKEN, TOKENS, expected_text
from simulated.nodes import Nodes

WARM_S = 1.0
MIB = 1 << 20


@dataclass
class Loaded:
    """The coordinator at this URL. model: the name of what it serves. process: its own, without its children.

    key: the API key with which clients ask. answers: those that are complete.
    """

    url: str
    model: str
    process: psutil.Process
    nodes: Nodes
    key: str = ""
    answers: int = field(default=0, init=False)

    def open_client(self) -> httpx.AsyncClient:
        return open_client(self.url, self.key)

    def memory_mib(self) -> float:
        return float(self.process.memory_info().rss / MIB)

    def cpu_s(self) -> float:
        used = self.process.cpu_times()
        return float(used.user + used.system)

    async def load(self, streams: int, seconds: float, tokens: int, rate: float | None = None) -> Values:
        """Ask for one answer after the other in so many streams. The values are those of the time after a warm-up.

        rate: the steps/s that the first stage lets pass; None stands for all.
        """
        self.nodes.tell("rate", rate)
        async with self.open_client() as client:
            deadline = time.perf_counter() + WARM_S + seconds + 0.5
            tasks = [asyncio.create_task(self._stream(client, one, deadline, tokens)) for one in range(streams)]
            await asyncio.sleep(WARM_S)
            before, cpu_before, answers_before = self.nodes.tell("report"), self.cpu_s(), self.answers
            await asyncio.sleep(seconds)
            after, cpu_after, answers_after = self.nodes.tell("report"), self.cpu_s(), self.answers
            self.nodes.tell("rate", None)  # so that what is under way ends soon
            await asyncio.gather(*tasks)
        wall, cpu, answers = after["moment"] - before["moment"], cpu_after - cpu_before, answers_after - answers_before
        frames, nbytes = after["hidden"] - before["hidden"], after["nbytes"] - before["nbytes"]
        check_answers([after["wrong"], after["lost"]], [0, 0], "the simulated nodes (rows that differ, nodes lost)")
        return {
            "frames_per_s": frames / wall,
            "mb_per_s": nbytes / wall / 1e6,
            "requests_per_s": answers / wall,
            "frames_per_cpu_s": frames / cpu,
            "mb_per_cpu_s": nbytes / cpu / 1e6,
            "coordinator_cores": cpu / wall,
            "simulation_cores": (after["cpu_s"] - before["cpu_s"]) / wall,
            "latency_p50_s": after["latency_p50_s"],
            "latency_p99_s": after["latency_p99_s"],
        }

    async def _stream(self, client: httpx.AsyncClient, number: int, deadline: float, tokens: int) -> None:
        prompt = [FIRST_TOKEN + number % TOKENS]
        while time.perf_counter() < deadline:
            answer = await ask(client, self.model, prompt, tokens)
            check_answers([answer.text], [expected_text(prompt, tokens)], "a stream")
            self.answers += 1
