"""Calls nodes to offered models that somebody asks for: those that wait, and those of models that nobody uses now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from msgspec import structs

from potluck.coordinator.gateway.acceptance import accepts, anew, is_free
from potluck.coordinator.gateway.gate import Gate
from potluck.coordinator.gateway.home import Home
from potluck.coordinator.recent import Recent
from potluck.coordinator.swarm.completion import completion
from potluck.coordinator.swarm.events import Joined, Lends
from potluck.planning.cost import in_mib
from potluck.types import NodeState, Span

_MOST_HELPERS = 32
"""The nodes that are considered for a model, because each takes a few milliseconds in which nothing else runs."""
_MOST_REMEMBERED = 4096
_RESTART_S = 12.0
"""Seconds that a model which is always served lacks layers before others give nodes, because its own may restart."""
_COMING = (NodeState.READY, NodeState.LOADING, NodeState.MOVING, NodeState.STALLED)
"""The states of nodes that may become free."""

_Helper = tuple[str, Joined]


class Calling:
    """Calls nodes. homes: where each node serves. idle: those that wait without layers.

    admit: admits one of these to a model. spare: returns the nodes of a model that it can spare. may_go: whether a node
    may go to a model, where it did not fail lately.
    Nodes are called only if they complete the model, all at once, so that two models do not end up with half each.
    """

    def __init__(
        self,
        gates: Sequence[Gate],
        homes: Mapping[str, Home],
        idle: Mapping[str, Joined],
        admit: Callable[[str, Gate, Joined], None],
        spare: Callable[[Gate], list[str]],
        may_go: Callable[[Joined, Gate], bool],
    ) -> None:
        self._gates = gates
        self._homes = homes
        self._idle = idle
        self._admit = admit
        self._spare = spare
        self._may_go = may_go
        self._lacking: dict[Gate, float] = {}
        """The models that lack layers, and since when."""
        self._given: dict[str, Gate] = {}
        """The nodes that models which nobody uses give away, and to which."""
        self._spans: Recent[tuple[bytes, str], Span | None] = Recent(lambda: None, _MOST_REMEMBERED)
        """The layers that nodes have served, by their keys and the models' digests."""

    @property
    def is_needed(self) -> bool:
        """Whether nodes may have to be called."""
        return any(not gate.demand.always and gate.lacks for gate in self._gates)

    def look(self, now: float) -> None:
        """Call nodes to all models that lack layers: those that are always served first, then who waits longest."""
        if all(gate.demand.always for gate in self._gates):
            return  # nobody waits, and nobody gives
        for gate in self._gates:
            gate.look(now)
        self._lacking = {gate: self._lacking.get(gate, now) for gate in self._gates if gate.lacks}
        for gate in sorted(self._lacking, key=lambda gate: (not gate.demand.always, gate.demand.since)):
            if not gate.demand.always or now - self._lacking[gate] >= _RESTART_S:
                self._call(gate, now)

    def _call(self, target: Gate, now: float) -> None:
        if target in self._given.values():
            return
        helpers = self._helpers(target, lambda gate: gate.demand.may_go(now), (NodeState.READY,))
        found = completion(target.swarm, (joined for _, joined in helpers))
        for node, joined in helpers if not found.missing else []:
            if node in found.used:
                self._take(node, joined, target, now)
        if not target.demand.always:
            target.tell(self._fault(target) if found.missing else "")

    def _take(self, node: str, joined: Joined, target: Gate, now: float) -> None:
        """Take a node, unless its model can spare it: then it is lent, once that has looked right for a while."""
        if node in self._idle:
            self._admit(node, target, joined)
        elif (home := self._homes[node].gate).demand.may_go(now):
            self._given[node] = target
            home.driver.apply(Lends(node, given=True))

    def _fault(self, target: Gate) -> str:
        """The reason why nodes cannot load what lacks, even when others give them; empty if they can."""
        later = self._helpers(target, lambda gate: not gate.demand.always, _COMING)
        found = completion(target.swarm, (joined for _, joined in later))
        if not found.missing:
            return ""
        layers, needed = ", ".join(map(str, found.missing)), in_mib(found.needed)
        return (
            f"{target.name} is not loaded, and the nodes that are here cannot load it: layers {layers} need {needed} "
            "MiB of memory more, of nodes that join with --any."
        )

    def _helpers(self, target: Gate, gives: Callable[[Gate], bool], states: Sequence[NodeState]) -> list[_Helper]:
        """The nodes that could go to a model, as they would come: those that wait, then those that others can spare or
        give.
        """

        def all_of_them() -> Iterator[str]:
            yield from self._idle
            others = [gate for gate in self._gates if gate is not target and gate.engine is target.engine]
            for gate in others:
                yield from self._spare(gate)
            for gate in filter(gives, others):
                nodes = gate.swarm.nodes.items()
                yield from (name for name, node in nodes if node.state in states and name in self._homes)

        names = (name for name in dict.fromkeys(all_of_them()) if self._can_go(name, target))
        return [(name, self.returning(self._joined(name), target)) for name in islice(names, _MOST_HELPERS)]

    def _joined(self, node: str) -> Joined:
        return self._idle[node] if node in self._idle else self._homes[node].joined

    def _can_go(self, node: str, target: Gate) -> bool:
        joined = self._joined(node)
        return (node in self._idle or is_free(joined)) and accepts(joined, target) and self._may_go(joined, target)

    def returning(self, joined: Joined, target: Gate) -> Joined:
        """The node as it comes to this model: for the layers that it held, or else as one that holds nothing."""
        digest = target.swarm.digest
        if not joined.hello.movable or (digest and joined.hello.holds == digest):
            return joined
        span = self._spans.get((joined.hello.key, digest))
        return anew(joined) if span is None else replace(joined, hello=structs.replace(joined.hello, span=span))

    def destination(self, node: str) -> Gate | None:
        """The model to which a node goes that was given away; None if it was not, or is not needed any more."""
        target = self._given.pop(node, None)
        return target if target is not None and target.lacks else None

    def moved(self, joined: Joined, home: Gate, span: Span) -> None:
        """Remember what a node has served that goes to another model."""
        self._spans[joined.hello.key, home.swarm.digest] = span

    def forget(self, node: str) -> None:
        """Forget a node that has gone."""
        self._given.pop(node, None)
