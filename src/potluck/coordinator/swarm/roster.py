"""The nodes that serve now and those that go, looked up again only when a node's state has changed. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from itertools import accumulate

from potluck.coordinator.swarm.node import Node, ready_nodes
from potluck.planning.routing import missing_layers
from potluck.types import NodeState, Span, spans_of

GOING = (NodeState.LEAVING, NodeState.MOVING, NodeState.PAUSED)
"""The states of nodes whose sessions are handed over."""


class Roster:
    """Answers that depend on the states, spans and capacities of these nodes alone, for a model with so many layers.

    Whoever changes one of them says so with `changed`, or the answers are old.
    """

    def __init__(self, nodes: Mapping[str, Node], layers: int) -> None:
        self._nodes = nodes
        self._layers = layers
        self._found = _Found(nodes, layers)

    def changed(self) -> None:
        """Note that a node has come, has gone, or has another state."""
        self._found = _Found(self._nodes, self._layers)

    @property
    def ready(self) -> Mapping[str, Node]:
        """The nodes that serve now, in their order."""
        return self._found.ready

    def beginning_at(self, layer: int) -> Mapping[str, Node]:
        """The nodes that serve now and whose spans begin at this layer."""
        return self._found.by_first.get(layer, {})

    @property
    def blocks(self) -> Mapping[Span, dict[str, Node]] | None:
        """The nodes that serve now, by their spans; None if a span begins within another one.

        Without such spans, no stage of a route ends before its node's span does.
        """
        return self._found.blocks

    @property
    def going(self) -> Mapping[str, Node]:
        """The nodes whose sessions are handed over."""
        return self._found.going

    @property
    def served(self) -> Sequence[int]:
        """How many ready nodes serve each layer."""
        return self._found.served

    @property
    def missing(self) -> list[Span]:
        """The spans of layers that no ready node serves."""
        return self._found.missing

    @property
    def spare(self) -> Collection[str]:
        """The nodes that serve now and all of whose layers others serve, too."""
        return self._found.spare

    def most_positions(self, sessions: int) -> int:
        """The most positions that every layer's largest node can hold, among those that hold this many sessions."""
        return self._found.most_positions(sessions)


class _Found:
    """What was found since the last change."""

    def __init__(self, nodes: Mapping[str, Node], layers: int) -> None:
        self._nodes = nodes
        self._layers = layers
        self._most: dict[int, int] = {}

    @cached_property
    def ready(self) -> Mapping[str, Node]:
        return ready_nodes(self._nodes)

    @cached_property
    def by_first(self) -> Mapping[int, dict[str, Node]]:
        found: dict[int, dict[str, Node]] = {}
        for name, node in self.ready.items():
            found.setdefault(node.span.first, {})[name] = node
        return found

    @cached_property
    def blocks(self) -> Mapping[Span, dict[str, Node]] | None:
        found: dict[Span, dict[str, Node]] = {}
        for name, node in self.ready.items():
            found.setdefault(node.span, {})[name] = node
        ends = [0, *(span.last + 1 for span in sorted(found))]
        return found if all(span.first >= end for span, end in zip(sorted(found), ends, strict=False)) else None

    @cached_property
    def going(self) -> Mapping[str, Node]:
        return {name: node for name, node in self._nodes.items() if node.state in GOING}

    @cached_property
    def spare(self) -> Collection[str]:
        served, ready = self.served, self.ready.items()
        return [name for name, node in ready if min(served[node.span.first : node.span.last + 1]) > 1]

    @cached_property
    def served(self) -> Sequence[int]:
        change = [0] * (self._layers + 1)  # the nodes that begin at each layer, less those that have ended before it
        for node in self.ready.values():
            change[node.span.first] += 1
            change[node.span.last + 1] -= 1
        return list(accumulate(change[:-1]))

    @cached_property
    def missing(self) -> list[Span]:
        return spans_of(missing_layers(self._layers, (node.span for node in self.ready.values())))

    def most_positions(self, sessions: int) -> int:
        if sessions not in self._most:
            self._most[sessions] = min(self._largest(sessions))
        return self._most[sessions]

    def _largest(self, sessions: int) -> list[int]:
        """The positions of each layer's largest node."""
        largest = [0] * self._layers
        for node in self.ready.values():
            capacity = node.ready.capacity
            if sessions <= capacity.sessions:
                for layer in range(node.span.first, node.span.last + 1):
                    largest[layer] = max(largest[layer], capacity.positions)
        return largest
