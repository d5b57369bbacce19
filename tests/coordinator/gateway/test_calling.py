"""Nodes that are called to offered models, and the models that must or need not give theirs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kit.newcomer import introduce
from kit.played_node import READY, hello
from kit.runner import run
from kit.two_models import DIGESTS, Coordinator, Newcomer, anywhere, joined
from kit.waiting import until
from potluck.coordinator.sessions.demand import ModelState, Times
from potluck.coordinator.sessions.session import Session
from potluck.errors import Unavailable
from potluck.planning.cost import RESERVE_BYTES
from potluck.types import NodeState, Span
from potluck.wire.codec import decode_from_coordinator
from potluck.wire.identity import Identity
from potluck.wire.messages import Close, FromCoordinator, Notice, Ping, Pong, Welcome

SOON = Times(idle_s=0, stay_s=0)
WAIT = "Waiting until somebody asks for a model."


async def heard(node: Newcomer) -> FromCoordinator:
    """What the node is told next, besides pings."""
    while isinstance((received := decode_from_coordinator(await node.link.receive()))[0], Ping):
        await node.send(Pong(received[0].number, 0), bytes(received[1]))
    return received[0]


async def idle(coordinator: Coordinator, **changes: Any) -> Newcomer:
    """A node that waits until somebody asks."""
    usual = {"any": True, "movable": True, "memory": RESERVE_BYTES + 4}
    node = Newcomer(coordinator, anywhere(**usual | changes), identity := Identity.fresh())
    await introduce(node.link, node._greeting, identity)
    assert await heard(node) == Notice(WAIT)
    return node


async def welcomed(node: Newcomer, name: str) -> Welcome:
    """The node's welcome to this model, which it then serves."""
    while isinstance(message := await heard(node), Notice | Close):
        pass
    assert isinstance(message, Welcome), message
    assert message.model == DIGESTS[name]
    node.name = message.node
    await node.send(READY)
    return message


def look(coordinator: Coordinator, times: int = 1) -> None:
    for _ in range(times):
        coordinator.gateway._lender._look()


def asks(coordinator: Coordinator, name: str) -> asyncio.Task[Session]:
    service = {"one": coordinator.one, "two": coordinator.two}[name]
    return asyncio.create_task(service.sessions.open(10))


def test_a_node_waits_until_somebody_asks_and_the_request_until_it_has_loaded() -> None:
    async def test() -> None:
        coordinator = Coordinator(4, "one", "two")
        node = await idle(coordinator)
        assert [joined.hello.any for joined in coordinator.lobby.idle.values()] == [True]
        assert coordinator.one.gate.state is ModelState.OFFERED
        asking = asks(coordinator, "two")
        await welcomed(node, "two")
        session = await asking
        assert not coordinator.lobby.idle
        assert coordinator.two.gate.state is ModelState.READY
        session.close()
        await node.leave()

    run(test())


def test_no_more_nodes_are_called_than_are_needed() -> None:
    async def test() -> None:
        coordinator = Coordinator(4, "one", "two")
        nodes = [await idle(coordinator) for _ in range(3)]
        asking = asks(coordinator, "one")
        await welcomed(nodes[0], "one")
        (await asking).close()
        assert len(coordinator.lobby.idle) == 2
        for node in nodes:
            await node.leave()

    run(test())


@pytest.mark.parametrize("nodes", [0, 1])
def test_a_model_that_nodes_cannot_load_is_refused_at_once_and_gets_nobody(nodes: int) -> None:
    async def test() -> None:
        coordinator = Coordinator(4, "one", "two")
        small = [await idle(coordinator, memory=RESERVE_BYTES + 2) for _ in range(nodes)]
        with pytest.raises(Unavailable, match="two is not loaded, and the nodes that are here cannot load it: layers"):
            await coordinator.two.sessions.open(10)
        assert len(coordinator.lobby.idle) == nodes
        assert coordinator.two.gate.state is ModelState.OFFERED
        for node in small:
            await node.leave()

    run(test())


def test_one_that_nobody_uses_gives_its_nodes_to_one_that_is_asked_for_and_they_get_the_same_layers_again() -> None:
    async def test() -> None:
        coordinator = Coordinator(4, "one", "two", times=SOON)
        nodes = [await idle(coordinator, memory=RESERVE_BYTES + 2) for _ in range(2)]
        spans: dict[str, list[Span]] = {"one": [], "two": []}
        for name in ("one", "two", "one", "two"):
            asking = asks(coordinator, name)
            held = [(await welcomed(node, name)).span for node in nodes]
            assert held in (spans[name] or held, [Span(0, 1), Span(2, 3)])
            spans[name] = held
            (await asking).close()
        for node in nodes:
            await node.leave()

    run(test())


def test_one_that_is_in_use_keeps_its_nodes_until_its_request_has_ended() -> None:
    async def test() -> None:
        coordinator = Coordinator(4, "one", "two", times=SOON)
        node = await idle(coordinator)
        first = asks(coordinator, "one")
        await welcomed(node, "one")
        session = await first
        second = asks(coordinator, "two")
        await asyncio.sleep(0)
        look(coordinator, 9)
        assert coordinator.one.swarm.nodes[node.name].state is NodeState.READY
        assert not second.done()
        session.close()
        look(coordinator)
        await welcomed(node, "two")
        (await second).close()
        await node.leave()

    run(test())


def test_it_keeps_them_for_a_while_after_its_last_request() -> None:
    async def test() -> None:
        coordinator = Coordinator(4, "one", "two", times=Times(idle_s=1e9))
        node = await idle(coordinator)
        first = asks(coordinator, "one")
        await welcomed(node, "one")
        (await first).close()
        second = asks(coordinator, "two")
        await asyncio.sleep(0)
        look(coordinator, 9)
        assert coordinator.one.swarm.nodes[node.name].state is NodeState.READY
        second.cancel()
        await node.leave()

    run(test())


def test_what_is_served_at_all_times_is_never_uncovered_and_gives_only_nodes_that_agree() -> None:
    async def test() -> None:
        coordinator = Coordinator(4, "two", times=SOON)
        holds = {"movable": True, "holds": DIGESTS["one"]}
        agrees, _ = await joined(coordinator, anywhere(any=True, **holds))
        with pytest.raises(Unavailable):
            await coordinator.two.sessions.open(10)
        other, _ = await joined(coordinator, anywhere(**holds), Identity.fresh())
        await until(lambda: coordinator.one.swarm.served() == [2] * 4)
        asking = asks(coordinator, "two")
        await asyncio.sleep(0)
        look(coordinator, 3)
        await welcomed(agrees, "two")
        (await asking).close()
        assert coordinator.one.swarm.nodes.keys() == {other.name}
        for node in (agrees, other):
            await node.leave()

    run(test())


def test_a_node_that_names_an_offered_model_waits_for_that_one() -> None:
    async def test() -> None:
        coordinator = Coordinator(4, "one", "two")
        coordinator.two.swarm.digest = ""  # nobody has read its weights yet
        node = await idle(coordinator, any=False, serves="two")
        with pytest.raises(Unavailable):
            await coordinator.one.sessions.open(10)
        coordinator.two.gate.identify(DIGESTS["two"], None)
        asking = asks(coordinator, "two")
        await welcomed(node, "two")
        (await asking).close()
        await node.leave()

    run(test())


def test_a_node_that_agrees_to_none_is_told_how() -> None:
    async def test() -> None:
        told = await Newcomer(Coordinator(4, "one", "two"), anywhere()).told()
        assert str(told).startswith("Models are loaded here only when somebody asks for them: join with --any")
        guesser = await Newcomer(Coordinator(4, "one", "two"), hello(0, 3)).told()
        assert str(guesser).startswith("Models are loaded here only")

    run(test())


def test_a_node_that_waits_and_speaks_out_of_turn_is_dropped() -> None:
    async def test() -> None:
        coordinator = Coordinator(4, "one", "two")
        node = await idle(coordinator)
        await node.send(READY)
        assert "A node that serves no layers yet sent Ready." in await node.dropped()
        assert not coordinator.lobby.idle

    run(test())


def test_the_owner_can_trust_and_cut_off_a_node_that_waits() -> None:
    async def test() -> None:
        coordinator = Coordinator(4, "one", "two")
        node = await idle(coordinator)
        [waiting] = coordinator.lobby.idle.values()
        coordinator.moderation.trust(waiting.hello.key, trusted=True)
        assert [one.entry.trusted for one in coordinator.lobby.idle.values()] == [True]
        coordinator.moderation.cut(waiting.hello.key, "Go away.")
        assert await node.dropped() == "Go away."
        assert not coordinator.lobby.idle

    run(test())
