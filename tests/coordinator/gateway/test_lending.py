"""Nodes that one model can spare go to another that lacks layers."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from kit.newcomer import NODE
from kit.played_node import READY, SCORES, hello, one_step
from kit.runner import run
from kit.two_models import DIGESTS, Coordinator, Newcomer, anywhere, joined
from kit.waiting import until
from potluck import types
from potluck.coordinator.sessions.session import Session
from potluck.coordinator.swarm.tally import Incident
from potluck.errors import LinkClosed
from potluck.planning.cost import RESERVE_BYTES
from potluck.types import NodeState, Span
from potluck.wire.codec import decode_from_coordinator
from potluck.wire.fleet import Redirect
from potluck.wire.identity import Identity
from potluck.wire.messages import Close, FromCoordinator, Hello, Notice, Ping, Pong, Scores, Step, Welcome

LOOKS = 3


def free(**changes: object) -> Hello:
    """The hello of a node that comes to the first model because it has its layers, and may serve any."""
    return anywhere(movable=True, holds=DIGESTS["one"], **changes)


def look(coordinator: Coordinator, times: int = LOOKS) -> None:
    for _ in range(times):
        coordinator.gateway._lender.consider()


async def heard(node: Newcomer) -> FromCoordinator:
    """What the node is told next, besides pings and notices."""
    while True:
        message, payload = decode_from_coordinator(await node.link.receive())
        match message:
            case Ping(number):
                await node.send(Pong(number, 0), bytes(payload))
            case Notice():
                pass
            case _:
                return message


async def two_on_one(coordinator: Coordinator, *, first: Hello | None = None) -> tuple[Newcomer, Newcomer]:
    """Two nodes that serve all layers of the first model. Nobody serves the second one."""
    nodes = []
    for greeting in (first or free(), hello(serves="one")):
        node, model = await joined(coordinator, greeting)
        assert model == DIGESTS["one"]
        nodes.append(node)
    await until(lambda: coordinator.one.swarm.served() == [2] * 4)
    return nodes[0], nodes[1]


async def two_sessions(coordinator: Coordinator, node: Newcomer) -> tuple[list[Session], Session]:
    """A session on each of the first model's nodes, and the one that this node has."""
    sessions = [await coordinator.one.sessions.open(10) for _ in range(2)]
    [held] = [session for session in sessions if session.route[0].node == node.name]
    return sessions, held


def test_a_node_that_is_not_needed_goes_where_it_is() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        spare, stays = await two_on_one(coordinator)
        look(coordinator, LOOKS - 1)
        assert coordinator.one.swarm.served() == [2] * 4
        look(coordinator, 1)
        message = await heard(spare)
        assert isinstance(message, Welcome)
        assert (message.model, message.span) == (DIGESTS["two"], Span(0, 3))
        assert coordinator.lobby.tickets.model_of(message.ticket) == DIGESTS["two"]
        await spare.send(READY)
        await until(lambda: coordinator.two.swarm.served() == [1] * 4)
        assert coordinator.one.swarm.served() == [1] * 4
        assert coordinator.one.swarm.tally.incidents[Incident.LOST] == 0
        look(coordinator)  # nobody lacks anything now
        session = await coordinator.two.sessions.open(10)
        step = one_step(session)
        asked = await heard(spare)
        assert isinstance(asked, Step)
        await spare.send(Scores(asked.session, asked.route, asked.step, (1,), 0.0, 0.0), SCORES)
        await step
        session.close()
        for node in (spare, stays):
            await node.leave()
        assert not coordinator.gateway._homes

    run(test())


def test_its_sessions_are_with_others_before_it_goes() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        spare, stays = await two_on_one(coordinator)
        sessions, held = await two_sessions(coordinator, spare)
        look(coordinator)
        await asyncio.sleep(0)
        assert coordinator.one.swarm.nodes[spare.name].state is NodeState.MOVING
        assert coordinator.one.gate.has(spare.name)
        held.close()
        assert isinstance(await heard(spare), Close)
        assert isinstance(await heard(spare), Welcome)
        for session in sessions:
            session.close()
        for node in (spare, stays):
            await node.leave()

    run(test())


def test_it_stays_when_it_is_needed_again_before_it_goes() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        spare, stays = await two_on_one(coordinator)
        sessions = [await coordinator.one.sessions.open(10) for _ in range(2)]
        look(coordinator)
        assert coordinator.one.swarm.nodes[spare.name].state is NodeState.MOVING
        await stays.leave()
        assert coordinator.one.swarm.nodes[spare.name].state is NodeState.READY
        for session in sessions:
            session.close()
        look(coordinator)
        await asyncio.sleep(0)
        assert coordinator.one.swarm.served() == [1] * 4
        await spare.leave()

    run(test())


@pytest.mark.parametrize(
    "first",
    [
        hello(serves="one"),
        hello(0, 3, holds=DIGESTS["one"]),
        anywhere(movable=True, model=DIGESTS["one"]),
        anywhere(movable=True, serves="one"),
    ],
    ids=["its model is chosen", "its layers are chosen", "it has a copy", "its model is chosen, its layers not"],
)
def test_who_chose_is_not_moved(first: Hello) -> None:
    async def test() -> None:
        coordinator = Coordinator()
        nodes = await two_on_one(coordinator, first=first)
        look(coordinator, 9)
        await asyncio.sleep(0)
        assert coordinator.one.swarm.served() == [2] * 4
        for node in nodes:
            await node.leave()

    run(test())


def test_what_is_served_is_never_uncovered() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        only, model = await joined(coordinator, free())
        assert model == DIGESTS["one"]
        await until(lambda: all(coordinator.one.swarm.served()))
        look(coordinator, 9)
        await asyncio.sleep(0)
        assert coordinator.one.swarm.served() == [1] * 4
        await only.leave()

    run(test())


def test_nobody_moves_while_another_loads_what_is_lacking() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        nodes = await two_on_one(coordinator)
        loading = Newcomer(coordinator, hello(serves="two"))
        assert isinstance(await loading.told(), Welcome)
        look(coordinator, 9)
        await asyncio.sleep(0)
        assert coordinator.one.swarm.served() == [2] * 4
        for node in (*nodes, loading):
            await node.leave()

    run(test())


def test_a_node_that_leaves_in_the_middle_is_gone() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        spare, stays = await two_on_one(coordinator)
        look(coordinator)
        await spare.leave()
        await stays.leave()
        assert not coordinator.one.swarm.nodes
        assert not coordinator.two.swarm.nodes

    run(test())


def test_an_answer_for_the_old_model_that_comes_late_is_passed_over() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        spare, stays = await two_on_one(coordinator)
        sessions, held = await two_sessions(coordinator, spare)
        step = one_step(held)
        asked = await heard(spare)
        assert isinstance(asked, Step)
        look(coordinator)
        step.cancel()  # its client hangs up while the node computes
        held.close()
        assert isinstance(await heard(spare), Close)
        assert isinstance(await heard(spare), Welcome)
        late = Scores(asked.session, asked.route, asked.step, (1,), 0.0, 0.0)
        await spare.send(late, SCORES)
        await spare.send(READY)
        await until(lambda: coordinator.two.swarm.served() == [1] * 4)
        await spare.send(late, SCORES)  # nothing more is owed
        assert "more steps than it was given" in await spare.dropped()
        for session in sessions:
            session.close()
        await stays.leave()

    run(test())


def test_trust_goes_with_the_node() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        spare, stays = await two_on_one(coordinator)
        coordinator.moderation.trust(NODE.public, trusted=True)
        look(coordinator)
        assert isinstance(await heard(spare), Welcome)
        assert coordinator.two.swarm.nodes[spare.name].entry.trusted
        for node in (spare, stays):
            await node.leave()

    run(test())


def test_it_stays_when_another_has_come_before_it_goes() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        spare, stays = await two_on_one(coordinator)
        sessions, held = await two_sessions(coordinator, spare)
        look(coordinator)
        other, _ = await joined(coordinator, hello(serves="two"))
        await until(lambda: all(coordinator.two.swarm.served()))
        held.close()
        await until(lambda: coordinator.one.swarm.nodes[spare.name].state is NodeState.READY)
        assert coordinator.one.swarm.served() == [2] * 4
        for session in sessions:
            session.close()
        for node in (spare, stays, other):
            await node.leave()

    run(test())


def test_who_is_gone_while_it_loads_the_other_model_is_not_lent_to_it_again() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        spare, stays = await two_on_one(coordinator)
        look(coordinator)
        assert isinstance(await heard(spare), Welcome)
        await spare.leave()
        again, model = await joined(coordinator, free())
        assert model == DIGESTS["one"]
        await until(lambda: coordinator.one.swarm.served() == [2] * 4)
        look(coordinator, 9)
        await asyncio.sleep(0)
        assert coordinator.one.swarm.served() == [2] * 4
        for node in (again, stays):
            await node.leave()

    run(test())


@pytest.mark.parametrize(("layers", "moves"), [(9, True), (99, False)])
def test_a_model_that_stays_incomplete_gets_nobody(layers: int, moves: bool) -> None:
    async def test() -> None:
        coordinator = Coordinator(layers)
        nodes = [await joined(coordinator, free(memory=RESERVE_BYTES + 5)) for _ in range(4)]
        await until(lambda: coordinator.one.swarm.served() == [4] * 4)
        look(coordinator)
        await asyncio.sleep(0)
        assert coordinator.one.swarm.served() == [3 if moves else 4] * 4
        for node, _ in nodes:
            await node.leave()

    run(test())


THERE = types.Coordinator("http://b:1", bytes(32))


async def last_words(node: Newcomer) -> list[FromCoordinator]:
    """What the node is told, besides pings and notices, before the coordinator closes the link."""
    words = []
    with suppress(LinkClosed):
        while True:
            words.append(await heard(node))
    return words


def test_a_node_is_sent_to_another_coordinator_once_others_have_its_sessions() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        spare, stays = await two_on_one(coordinator)
        sessions, held = await two_sessions(coordinator, spare)
        assert coordinator.gateway.redirect(spare.name, THERE)
        await asyncio.sleep(0)
        assert coordinator.one.swarm.nodes[spare.name].state is NodeState.MOVING
        assert not coordinator.gateway.redirect(stays.name, THERE)
        held.close()
        assert (await last_words(spare))[-1] == Redirect(THERE.url, THERE.key)
        await spare.serving
        assert not coordinator.gateway.redirect(spare.name, THERE)
        assert coordinator.one.swarm.served() == [1] * 4
        assert coordinator.one.swarm.tally.incidents[Incident.LEFT] == 1
        for session in sessions:
            session.close()
        await stays.leave()

    run(test())


def test_a_node_that_was_needed_again_is_not_sent_away_later() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        spare, stays = await two_on_one(coordinator)
        sessions, _ = await two_sessions(coordinator, spare)
        coordinator.gateway.redirect(spare.name, THERE)
        await stays.leave()
        assert coordinator.one.swarm.nodes[spare.name].state is NodeState.READY
        for session in sessions:
            session.close()
        again, _ = await joined(coordinator, hello(serves="one"), Identity.fresh())
        await until(lambda: coordinator.one.swarm.served() == [2] * 4)
        look(coordinator)
        while isinstance(message := await heard(spare), Close):
            pass
        assert isinstance(message, Welcome)
        assert message.model == DIGESTS["two"]
        for node in (spare, again):
            await node.leave()

    run(test())
