"""Nodes move to layers that need them more: late enough, make before break, and never the last one of a layer."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.random_swarms import random_cut_footprint, random_machine
from potluck.coordinator.swarm.events import (
    Action,
    Admit,
    BecameReady,
    Changed,
    Joined,
    Leaves,
    Left,
    Rebalance,
    Stalled,
    Tell,
)
from potluck.coordinator.swarm.linkspeed import LinkSpeed
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.swarm.tally import Incident
from potluck.errors import WireError
from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.types import Capacity, NodeState, Span, Speed
from potluck.wire.messages import MOST_STATE, Hello, Ready

READY = Ready(Capacity(8, 100, 64), Speed(0.01, 0.001), "twin", "plain")
LOOKS = 3


def join(swarm: Swarm, name: str, span: str, movable: bool = False) -> None:
    hello = Hello(name, "0.1", "", Span.parse(span), RESERVE_BYTES + 3, 1, movable)
    swarm.handle(Joined(name, hello))
    swarm.handle(BecameReady(name, READY))


@pytest.fixture
def swarm() -> Swarm:
    """Layers 0-2 have two nodes, of which `mover` may move, and 3-5 none any more."""
    swarm = Swarm("d" * 64, Footprint((1,) * 6, 0, 0))
    join(swarm, "mover", "0-2", movable=True)
    join(swarm, "fixed", "0-2")
    return swarm


def look(swarm: Swarm, times: int = LOOKS) -> list[Action]:
    """What the last of so many looks leads to."""
    actions: list[Action] = []
    for _ in range(times):
        actions = swarm.handle(Rebalance())
    return actions


def test_a_replica_moves_to_layers_that_nobody_serves(swarm: Swarm) -> None:
    assert look(swarm, LOOKS - 1) == []
    told, *rest = look(swarm, 1)
    assert told == Tell("mover", "Layers 3-5 need this node more: it moves there.")
    assert rest == [Admit("mover", Span(3, 5)), Changed()]
    assert swarm.tally.incidents[Incident.MOVED] == 1
    assert (swarm.nodes["mover"].state, swarm.nodes["mover"].span) == (NodeState.LOADING, Span(3, 5))
    swarm.handle(BecameReady("mover", READY))
    assert swarm.missing() == []
    assert look(swarm) == []


@given(st.randoms(use_true_random=False), st.integers(1, 12), st.integers(1, 25))
def test_whatever_happens_nodes_and_stages_begin_where_the_model_may_be_cut(
    random: Random, layers: int, events: int
) -> None:
    footprint = random_cut_footprint(random, layers)
    swarm, cuts = Swarm("d" * 64, footprint), footprint.cuts
    for number in range(events):
        memory, wish = random_machine(random, "").memory, random.choice([None, *cuts.spans(), Span(0, 0)])
        hello = Hello("anna", "0.1", "", wish, memory, 1, movable=random.random() < 0.8, bytes_per_s=1e6)
        swarm.handle(Joined(f"n{number}", hello))
        if f"n{number}" in swarm.nodes and random.random() < 0.9:
            swarm.handle(BecameReady(f"n{number}", READY))
        if not swarm.missing() and (route := swarm.kv_budget.reserve(number, 1)):
            assert {stage.span.first for stage in route} <= set(cuts.points)
        if swarm.nodes and random.random() < 0.4:
            swarm.handle(Left(random.choice([*swarm.nodes])))
        look(swarm)
        for node in swarm.nodes.values():
            assert cuts.allows(node.span)
            assert node.destination is None or cuts.allows(node.destination)


def test_sessions_are_handed_over_first(swarm: Swarm) -> None:
    join(swarm, "late", "3-5")
    route = swarm.kv_budget.reserve(1, 10)
    assert route is not None
    assert route[0].node == "mover"
    swarm.handle(Left("late"))
    assert not [action for action in look(swarm) if isinstance(action, Admit)]
    assert swarm.nodes["mover"].state is NodeState.MOVING
    assert swarm.kv_budget.wants_mending(1, route)
    assert swarm.kv_budget.mend(1, route, 10) is None  # it waits for layers 3-5, which the mover shall bring
    assert swarm.kv_budget.give_up(1, route) == ["mover"]
    assert swarm.let_go() == [Admit("mover", Span(3, 5))]


def test_whoever_is_back_in_time_finds_its_place_again(swarm: Swarm) -> None:
    look(swarm, LOOKS - 1)
    join(swarm, "back", "3-5")
    assert look(swarm) == []


@pytest.mark.parametrize("event", [Left("fixed"), Leaves("fixed"), Stalled("fixed", "it is silent")])
def test_a_node_that_has_become_the_only_one_stays(swarm: Swarm, event: Left | Leaves | Stalled) -> None:
    join(swarm, "late", "3-5")
    swarm.kv_budget.reserve(1, 10)
    swarm.handle(Left("late"))
    look(swarm)
    assert Tell("mover", "Layers 0-2 need this node again: it stays.") in swarm.handle(event)
    assert swarm.nodes["mover"].state is NodeState.READY
    assert swarm.served() == [1, 1, 1, 0, 0, 0]


def test_nobody_moves_while_somebody_loads(swarm: Swarm) -> None:
    hello = Hello("new", "0.1", "", Span(3, 5), RESERVE_BYTES + 3, 1)
    swarm.handle(Joined("new", hello))
    assert look(swarm) == []


def test_whose_owner_chose_the_layers_stays(swarm: Swarm) -> None:
    swarm.handle(Left("mover"))
    join(swarm, "mover", "0-2")
    assert look(swarm) == []


def test_a_node_that_moves_may_leave(swarm: Swarm) -> None:
    join(swarm, "late", "3-5")
    swarm.kv_budget.reserve(1, 10)
    swarm.handle(Left("late"))
    look(swarm)
    swarm.handle(Leaves("mover"))
    assert (swarm.nodes["mover"].state, swarm.nodes["mover"].destination) == (NodeState.LEAVING, None)


def test_a_node_is_ready_once(swarm: Swarm) -> None:
    with pytest.raises(WireError, match="serves already"):
        swarm.handle(BecameReady("fixed", READY))


def test_what_a_slow_link_carries_too_slowly_is_computed_instead(swarm: Swarm) -> None:
    hello = Hello("slow", "0.1", "", None, RESERVE_BYTES + 3, 1, movable=True)
    assert swarm.handle(Joined("slow", hello, speed=LinkSpeed(0.03, 1e6))) == [Admit("slow", Span(3, 5))]
    swarm.handle(BecameReady("slow", READY))
    swarm.kv_budget.reserve(1, 10)
    assert swarm.kv_budget.worth_moving("slow", 1) == pytest.approx(10 * READY.speed.prefill_s * 1e6, abs=1)
    assert swarm.kv_budget.worth_moving("mover", 1) == MOST_STATE


def test_a_node_that_is_much_slower_than_it_said_is_planned_with_as_it_is(swarm: Swarm) -> None:
    """Or else others would leave its layers to it."""
    join(swarm, "late", "3-5")
    late = swarm.nodes["late"]
    late.bytes_per_s = 1e12
    assert look(swarm) == []
    late.measure.token_s = 3.0
    swarm.nodes["mover"].bytes_per_s = swarm.nodes["fixed"].bytes_per_s = 100.0
    told, *_ = look(swarm)
    assert told == Tell("mover", "Layers 3-5 need this node more: it moves there.")
