"""Which nodes would complete a model, and how much of it is loaded."""

from __future__ import annotations

import pytest

from kit.played_node import hello
from potluck.coordinator.swarm.completion import completion, loaded
from potluck.coordinator.swarm.events import Joined, Progressed
from potluck.coordinator.swarm.swarm import Swarm
from potluck.planning.cost import RESERVE_BYTES, Footprint, in_mib
from potluck.types import Span

MIB = 1 << 20


def swarm() -> Swarm:
    """A model of four layers of a MiB each."""
    return Swarm("d", Footprint((MIB,) * 4, 0, 0))


def comes(node: str, layers: int) -> Joined:
    """A node with memory for so many layers."""
    return Joined(node, hello(span=None, movable=True, memory=RESERVE_BYTES + layers * MIB))


@pytest.mark.parametrize(
    ("nodes", "used", "missing"),
    [
        ([], [], [Span(0, 3)]),
        ([("a", 4)], ["a"], []),
        ([("a", 2), ("b", 2), ("c", 2)], ["a", "b"], []),
        ([("a", 1), ("b", 2)], ["a", "b"], [Span(3, 3)]),
        ([("tiny", 0), ("a", 4)], ["a"], []),
    ],
)
def test_nodes_are_used_in_their_order_until_nothing_lacks(
    nodes: list[tuple[str, int]], used: list[str], missing: list[Span]
) -> None:
    found = completion(swarm(), [comes(*node) for node in nodes])
    assert (found.used, found.missing) == (used, missing)
    assert bool(found.needed) == bool(missing)


def test_what_is_needed_includes_what_the_program_takes() -> None:
    assert in_mib(completion(swarm(), []).needed) == 4 + in_mib(RESERVE_BYTES)


def test_layers_that_somebody_loads_do_not_lack() -> None:
    one = swarm()
    one.handle(comes("a", 2))
    found = completion(one, [comes("b", 2)])
    assert (found.used, found.missing) == (["b"], [])
    one.handle(Progressed("a", 0.5))
    assert loaded(one) == 0.25
