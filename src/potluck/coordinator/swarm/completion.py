"""How a model that lacks layers gets them: which nodes would complete it, and how much of it is loaded. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from potluck.coordinator.swarm.events import Joined
from potluck.coordinator.swarm.node import Node, counted
from potluck.coordinator.swarm.swarm import Swarm
from potluck.errors import Refused
from potluck.planning.machine import Machine, Placed
from potluck.planning.routing import missing_layers
from potluck.types import Span, spans_of


class Completion(NamedTuple):
    """The completion of a model by nodes that may come. used: those that bring layers. missing: what then still lacks.

    needed: the bytes of memory that this needs.
    """

    used: list[str]
    missing: list[Span]
    needed: int


def completion(swarm: Swarm, newcomers: Iterable[Joined]) -> Completion:
    """The completion by nodes that are not in the swarm yet, which come in this order. Nothing is changed.

    Layers that a node still loads do not lack.
    """
    placed, used = swarm.placed(), []
    missing = missing_layers(swarm.layers, (one.span for one in placed))
    for event in newcomers:
        if not missing:
            break
        with suppress(Refused):
            node = swarm.newcomer(event, placed)
            left = [layer for layer in missing if layer not in node.span]
            if len(left) < len(missing):
                missing = left
                used.append(event.node)
                placed.append(Placed(_machine(event.node, node), node.span))
    spans = spans_of(missing)
    return Completion(used, spans, sum(map(swarm.footprint.of, spans)))


def loaded(swarm: Swarm) -> float:
    """The share of the layers that are loaded, where those that a node still loads count in part."""
    nodes = swarm.nodes.values()
    parts = [max((one.fraction for one in nodes if layer in one.span), default=0.0) for layer in range(swarm.layers)]
    return sum(parts) / swarm.layers


def _machine(name: str, node: Node) -> Machine:
    return Machine(name, node.memory, node.bytes_per_s, *node.speed, counted(node.gpu_memory))
