"""Nodes that are given to other coordinators of the fleet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from kit.runner import run
from potluck.coordinator.fleet.fleet import Fleet
from potluck.coordinator.fleet.nats_bus import NatsBus
from potluck.coordinator.fleet.records import ModelRecord, Record, runs_of
from potluck.coordinator.giving import Giving, neighbours
from potluck.types import Coordinator, NodeState, Span
from potluck.wire.identity import Identity

DIGEST = "d" * 64
OTHER = Coordinator("http://b", b"b" * 32)


class Leases:
    """A bus on which the lease is this coordinator's, or another's."""

    def __init__(self) -> None:
        self.are_free = True

    async def get(self, *_: object) -> tuple[bytes, int]:
        return (b"a" * 32 if self.are_free else b"c" * 32), 1

    async def replace(self, *_: object) -> bool:
        return True


def gate(*spans: Span, movable: bool = True) -> Any:
    """The gate of a model of four layers, with ready nodes of these spans."""
    nodes = {
        f"n{number}": SimpleNamespace(span=span, movable=movable, key=bytes([number]), state=NodeState.READY)
        for number, span in enumerate(spans)
    }
    served = [sum(layer in span for span in spans) for layer in range(4)]
    swarm = SimpleNamespace(
        digest=DIGEST, nodes=nodes, served=lambda: served, roster=SimpleNamespace(ready=nodes), missing=lambda: []
    )
    return SimpleNamespace(swarm=swarm)


class Scene:
    """A coordinator with a model, and another one that lacks all of its layers."""

    def __init__(self, model: Any, lacks: bool = True) -> None:
        self.fleet = Fleet(NatsBus(("nats://127.0.0.1:1",)), Identity.fresh(), b"a" * 32, "http://a", lambda: 0.0)
        served = runs_of([0 if lacks else 1] * 4)
        there = ModelRecord(("llama",), DIGEST, 64, served)
        self.fleet.directory.note(Record(OTHER.key, OTHER.url, "1", 1.0, 1, 1.0, (there,)), 0.0)
        self.leases = Leases()
        self.fleet.bus = cast(Any, self.leases)
        self.sent: list[tuple[str, Coordinator]] = []
        self.giving = Giving(self.fleet, [model], self._redirect)

    def _redirect(self, node: str, target: Coordinator) -> bool:
        self.sent.append((node, target))
        return True

    def look(self, times: int) -> list[tuple[str, Coordinator]]:
        async def looks() -> None:
            for _ in range(times):
                await self.giving.consider()

        run(looks())
        return self.sent


WHOLE = Span(0, 3)


def test_node_is_given_once_it_has_seemed_right_for_a_while() -> None:
    scene = Scene(gate(WHOLE, WHOLE))
    assert scene.look(2) == []
    assert scene.look(1) == [("n0", OTHER)]


def test_node_that_comes_back_is_not_given_again_soon() -> None:
    """These nodes are here for ever, whoever is sent away."""
    scene = Scene(gate(WHOLE, WHOLE))
    assert scene.look(12) == [("n0", OTHER), ("n1", OTHER)]


@pytest.mark.parametrize(
    "scene",
    [Scene(gate(WHOLE)), Scene(gate(WHOLE, WHOLE, movable=False)), Scene(gate(WHOLE, WHOLE), lacks=False)],
    ids=["it is needed here", "its owner chose its layers", "nothing is missing there"],
)
def test_node_stays(scene: Scene) -> None:
    assert scene.look(5) == []


def test_nothing_is_given_while_another_coordinator_gives() -> None:
    scene = Scene(gate(WHOLE, WHOLE))
    scene.leases.are_free = False
    assert scene.look(5) == []
    scene.leases.are_free = True
    assert scene.look(1) == [("n0", OTHER)]


def test_nodes_hear_first_of_coordinators_with_the_same_models() -> None:
    scene = Scene(gate(WHOLE))
    scene.fleet.bus = cast(Any, SimpleNamespace(is_up=True))
    scene.fleet.directory.note(Record(b"A" * 32, "http://other-models", "1", 1.0, 1, 1.0), 0.0)
    scene.fleet.own_models = (ModelRecord(("llama",), DIGEST, 64, ((1, 4),)),)
    assert neighbours(scene.fleet) == [OTHER, Coordinator("http://other-models", b"A" * 32)]
    scene.fleet.bus = cast(Any, SimpleNamespace(is_up=False))
    scene.fleet.directory.forget(1e9)
    assert neighbours(scene.fleet) == [OTHER, Coordinator("http://other-models", b"A" * 32)]  # until NATS is back
