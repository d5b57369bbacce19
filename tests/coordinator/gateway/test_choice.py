"""Nodes at the gateway of several models: which one they serve, and what all models know of them."""

from __future__ import annotations

import pytest

from kit.played_node import hello
from kit.runner import run
from kit.two_models import DIGESTS, Coordinator, Newcomer, anywhere, joined
from kit.waiting import until
from potluck.types import GuesserOffer, NodeState, Span
from potluck.wire.identity import Identity
from potluck.wire.messages import Hello, Welcome


def test_a_node_serves_the_model_that_it_names_has_or_holds() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        wishes = [
            (hello(serves="two"), "two"),
            (hello(model=DIGESTS["two"]), "two"),
            (anywhere(span=Span(0, 1), holds=DIGESTS["two"]), "two"),
            (hello(serves="one"), "one"),
            (hello(serves="also two"), "two"),
        ]
        for greeting, name in wishes:
            node, model = await joined(coordinator, greeting)
            assert model == DIGESTS[name]
            await node.leave()

    run(test())


def test_nodes_that_leave_it_to_the_coordinator_go_where_they_help_most() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        first, model = await joined(coordinator, anywhere())
        assert model == DIGESTS["one"]
        second, model = await joined(coordinator, anywhere())
        assert model == DIGESTS["two"]
        await until(lambda: all(coordinator.one.swarm.served()) and all(coordinator.two.swarm.served()))
        await first.leave()
        third, model = await joined(coordinator, anywhere())
        assert model == DIGESTS["one"]
        assert coordinator.two.swarm.nodes.keys() == {second.name}
        await second.leave()
        await third.leave()
        assert not coordinator.one.swarm.nodes
        assert not coordinator.two.swarm.nodes

    run(test())


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (hello(serves="three"), "The model 'three' is not served here; 'one', 'two' are."),
        (hello(serves="x" * 9999), f"The model {'x' * 64!r} is not served here; 'one', 'two' are."),
        (hello(0, 3), "Name the model whose layers 0-3 are meant, with --model: 'one', 'two'."),
        (
            hello(guesser=GuesserOffer("s", 9, 9)),
            "Name the model for which this node guesses, with --model: 'one', 'two'.",
        ),
        (anywhere(model="3" * 64), "Your model has the hash 3333333333333333, this swarm serves 1111111111111111."),
    ],
)
def test_a_node_that_can_join_none_is_told_why(greeting: Hello, reason: str) -> None:
    async def test() -> None:
        assert await Newcomer(Coordinator(), greeting).told() == reason

    run(test())


def test_layers_of_a_model_that_is_not_served_are_not_asked_for() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        node = Newcomer(coordinator, anywhere(movable=True, span=Span(2, 3), holds="3" * 64))
        welcome = await node.told()
        assert isinstance(welcome, Welcome)
        assert welcome.span == Span(0, 3)
        await node.leave()

    run(test())


def test_a_ticket_opens_the_model_of_its_node() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        for name, digest in DIGESTS.items():
            node = Newcomer(coordinator, hello(serves=name))
            welcome = await node.told()
            assert isinstance(welcome, Welcome)
            assert coordinator.lobby.tickets.model_of(welcome.ticket) == digest
            await node.leave()
            assert coordinator.lobby.tickets.model_of(welcome.ticket) is None

    run(test())


def test_who_lies_to_one_model_is_believed_by_none() -> None:
    async def test() -> None:
        coordinator, liar = Coordinator(), Identity.fresh()
        in_one, _ = await joined(coordinator, hello(serves="one"), liar)
        in_two, _ = await joined(coordinator, hello(serves="two"), liar)
        honest, _ = await joined(coordinator, hello(serves="two"))
        await until(lambda: all(coordinator.two.swarm.served()))
        told: list[bytes] = []
        coordinator.lobby.caught.listen(lambda caught: told.append(caught.key))
        coordinator.one.gate.driver.quarantine(in_one.name, liar.public, "it lied")
        assert told == [liar.public]
        assert coordinator.one.swarm.nodes[in_one.name].state is NodeState.QUARANTINED
        assert coordinator.two.swarm.nodes[in_two.name].state is NodeState.QUARANTINED
        assert coordinator.two.swarm.nodes[honest.name].state is not NodeState.QUARANTINED
        assert "in quarantine" in str(await Newcomer(coordinator, hello(serves="two"), liar).told())
        for node in (in_one, in_two, honest):
            await node.leave()

    run(test())


def test_a_revoked_node_is_cut_wherever_it_serves() -> None:
    async def test() -> None:
        coordinator, gone = Coordinator(), Identity.fresh()
        node, _ = await joined(coordinator, hello(serves="two"), gone)
        coordinator.moderation.cut(gone.public, "You are revoked.")
        await node.serving
        assert not coordinator.two.swarm.nodes

    run(test())
