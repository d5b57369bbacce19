"""What nodes are told of the other coordinators of a fleet."""

from __future__ import annotations

from collections.abc import Sequence

from kit.newcomer import reception
from kit.played_node import TERMS, VOCABULARY, WIDTH, Node
from kit.runner import run
from kit.toy_swarm import TOKENIZER
from potluck.coordinator.compose import SwarmService, compose_swarm
from potluck.coordinator.gateway.lobby import new_lobby
from potluck.coordinator.generation.guesser_pool import GuesserPool
from potluck.coordinator.swarm.swarm import Swarm
from potluck.planning.cost import Footprint
from potluck.types import Coordinator, GuesserOffer
from potluck.wire.fleet import Fleet
from potluck.wire.messages import FromCoordinator, Ping, Pong, Vocabulary, Welcome

B, C = Coordinator("http://b:1", bytes(32)), Coordinator("http://c:1", bytes([1]) * 32)


def made(fleet: Sequence[Coordinator]) -> SwarmService:
    """A swarm of a coordinator with this fleet, which may change."""
    guessers = GuesserPool("toy", TOKENIZER, VOCABULARY, 64)
    lobby = new_lobby(reception(), lambda: fleet)
    swarm = Swarm(TERMS.digest, Footprint((1,) * 4, 0, 0))
    return compose_swarm(TERMS, swarm, lobby, width=WIDTH, vocabulary=VOCABULARY, guessers=guessers)


async def told(node: Node) -> FromCoordinator:
    """What the node is told next, besides pings."""
    while isinstance(message := await node.receive(), Ping):
        await node.send(Pong(message.number, 0))
    return message


def test_who_joins_learns_of_the_others_and_of_changes() -> None:
    async def test() -> None:
        fleet = [B]
        service = made(fleet)
        node = Node(service)
        await node.introduce()
        welcome = await told(node)
        assert isinstance(welcome, Welcome)
        assert welcome.fleet == (B,)
        fleet.append(C)
        service.gate.welcomes.tell_fleet()
        assert await told(node) == Fleet((B, C))
        await node.leave()

    run(test())


def test_who_only_asks_learns_of_nobody() -> None:
    async def test() -> None:
        node = Node(made([B]))
        await node.introduce(joins=False)
        welcome = await told(node)
        assert isinstance(welcome, Welcome)
        assert welcome.fleet == ()
        await node.leave()

    run(test())


def test_who_guesses_learns_of_the_others_when_it_joins() -> None:
    async def test() -> None:
        for joins in (True, False):
            node = Node(made([B]))
            await node.introduce(guesser=GuesserOffer("small", 64, 27), joins=joins)
            vocabulary = await told(node)
            assert isinstance(vocabulary, Vocabulary)
            assert vocabulary.fleet == ((B,) if joins else ())
            await node.leave()

    run(test())
