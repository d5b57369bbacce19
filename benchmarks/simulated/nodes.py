"""The process of all simulated nodes, and how the benchmark commands it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import httpx
import uvloop

from simulated.node import Node, Simulation

_AT_ONCE = 128
"""The nodes that connect together."""


def simulate(url: str, layers: int, hidden: int, pipe: Connection) -> None:
    """The main function of the process. Commands come through the pipe as (name, argument), and get a report each."""

    async def run() -> None:
        simulation = Simulation(layers, hidden)
        count = 0
        while True:
            command, argument = await asyncio.to_thread(pipe.recv)
            match command:
                case "connect":
                    await connect(simulation, url, range(count, argument))
                    count = argument
                case "rate":
                    simulation.rate = argument
                case "together":
                    simulation.together = argument
                case "hold":
                    simulation.hold()
                case "release first":
                    simulation.release_first()
                case "release last":
                    simulation.release_last()
                case "end":
                    return
            pipe.send(simulation.report())

    uvloop.run(run())


async def connect(simulation: Simulation, url: str, numbers: range) -> None:
    """Connect a node for each number, layer after layer, round and round."""
    target = httpx.URL(url)
    for number in numbers:
        make = partial(Node, simulation, number % simulation.layers)
        await asyncio.get_running_loop().create_connection(make, target.host, target.port or 80)


class Nodes:
    """The simulation as the benchmark's own process sees it.

    url: the coordinator's. wait_ready: waits until so many nodes serve there.
    """

    def __init__(self, url: str, wait_ready: Callable[[int], object], layers: int, hidden: int) -> None:
        context = get_context("spawn")
        self._wait_ready = wait_ready
        self._count = 0
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=simulate, args=(url, layers, hidden, theirs), daemon=True)
        self._process.start()

    def tell(self, command: str, argument: object = None) -> dict[str, Any]:
        self._pipe.send((command, argument))
        if not self._pipe.poll(120.0):
            raise TimeoutError("The simulated nodes do not answer.")
        reply: dict[str, Any] = self._pipe.recv()
        return reply

    def connect(self, count: int) -> None:
        """Connect nodes until so many serve, a few at a time, because a server has room for few strangers."""
        while self._count < count:
            self._count = min(count, self._count + _AT_ONCE)
            self.tell("connect", self._count)
            self._wait_ready(self._count)

    def end(self) -> None:
        if self._process.is_alive():
            self._pipe.send(("end", None))
            self._process.join(10.0)
        self._process.terminate()
