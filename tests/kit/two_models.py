"""A coordinator of two models in this process, and nodes at its gateway that the test plays by hand."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from kit.newcomer import NODE, introduce, reception
from kit.played_node import READY, TERMS, VOCABULARY, WIDTH, Node, hello
from potluck.coordinator.compose import SwarmService, compose_swarm
from potluck.coordinator.gateway.gateway import Gateway
from potluck.coordinator.gateway.lobby import Lobby, new_lobby
from potluck.coordinator.gateway.moderation import Moderation
from potluck.coordinator.sessions.demand import USUAL, Demand, Times
from potluck.coordinator.swarm.swarm import Swarm
from potluck.planning.cost import Footprint
from potluck.wire.codec import decode_from_coordinator
from potluck.wire.identity import Identity
from potluck.wire.link import MemoryLink
from potluck.wire.messages import Hello, Ping, Pong, Refusal, Welcome

DIGESTS = {"one": "1" * 64, "two": "2" * 64}


class Coordinator:
    """A coordinator of two models. layers: those of the second one; the first has four.

    offered: the names of those that are only offered, with these times.
    """

    def __init__(self, layers: int = 4, *offered: str, times: Times = USUAL) -> None:
        self._demands = {name: Demand(always=False, times=times) for name in offered}
        self.lobby: Lobby = new_lobby(reception())
        self.one, self.two = (self._swarm("one", 4), self._swarm("two", layers))
        gates = [self.one.gate, self.two.gate]
        self.gateway = Gateway(gates, self.lobby)
        self.moderation = Moderation(gates, self.lobby)

    def _swarm(self, name: str, layers: int) -> SwarmService:
        swarm = Swarm(DIGESTS[name], Footprint((1,) * layers, 0, 0))
        terms = replace(TERMS, digest=DIGESTS[name])
        return compose_swarm(
            terms,
            swarm,
            self.lobby,
            width=WIDTH,
            vocabulary=VOCABULARY,
            names=(name, f"also {name}"),
            demand=self._demands.get(name),
        )


class Newcomer(Node):
    """A node at the gateway of both."""

    def __init__(self, coordinator: Coordinator, greeting: Hello, identity: Identity = NODE) -> None:
        self.link, theirs = MemoryLink.pair()
        self.service = coordinator.one
        self.serving = asyncio.create_task(coordinator.gateway.serve(theirs))
        self.name = ""
        self._greeting = greeting
        self._identity = identity

    async def told(self) -> Welcome | str:
        """The welcome, or the reason why it is refused."""
        await introduce(self.link, self._greeting, self._identity)
        while isinstance((received := decode_from_coordinator(await self.link.receive()))[0], Ping):
            await self.send(Pong(received[0].number, 0), bytes(received[1]))
        message = received[0]
        if isinstance(message, Refusal):
            await self.serving
            return message.reason
        assert isinstance(message, Welcome)
        self.name = message.node
        return message


def anywhere(**changes: Any) -> Hello:
    """The hello of a node that leaves everything to the coordinator, and echoes no probe."""
    return hello(**{"span": None, **changes})


async def joined(coordinator: Coordinator, greeting: Hello, identity: Identity = NODE) -> tuple[Newcomer, str]:
    """The node, and the digest of the model that it is given."""
    node = Newcomer(coordinator, greeting, identity)
    welcome = await node.told()
    assert isinstance(welcome, Welcome), welcome
    await node.send(READY)
    return node, welcome.model
