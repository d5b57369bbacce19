"""The swarm's state as a machine without I/O: events in, actions out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from msgspec import structs

from potluck.coordinator.swarm.events import (
    Action,
    Admit,
    BecameReady,
    Break,
    Changed,
    Event,
    Joined,
    Keeps,
    Leaves,
    Left,
    Lends,
    LetGo,
    Pauses,
    Progressed,
    Quarantined,
    Rebalance,
    Refuse,
    Resized,
    Resumes,
    Revived,
    Stalled,
    Tell,
)
from potluck.coordinator.swarm.kv_budget import KvBudget
from potluck.coordinator.swarm.measure import Measure
from potluck.coordinator.swarm.mover import Mover
from potluck.coordinator.swarm.node import NOT_READY, Node, check_ready, counted, is_lent, offered, plausible_rate
from potluck.coordinator.swarm.roster import Roster
from potluck.coordinator.swarm.tally import Incident, Tally
from potluck.errors import Refused, SpanError, WireError
from potluck.planning.cost import HOP_S, Footprint, in_mib
from potluck.planning.limit import limit_sentence
from potluck.planning.machine import Machine, Placed
from potluck.planning.placement import best_span, smallest_span
from potluck.planning.prospect import prospect
from potluck.planning.rebalancing import Move
from potluck.types import ANY_NUMBER, NodeState, Prospect, Span
from potluck.wire.messages import Hello

_MOST_THREADS = 1024
_DOUBTED = 8.0
"""A node that is slower by this factor than it said when it loaded is taken to be as slow as it is."""


class Swarm:
    """The nodes of one model, with this `digest`, this number of `layers`, and the sizes in `footprint`.

    forgets: the number of its latest positions that a session of the model can surely forget.
    """

    def __init__(self, digest: str, footprint: Footprint, *, forgets: int = ANY_NUMBER) -> None:
        self.digest = digest
        self.forgets = forgets
        self.footprint = footprint
        self.layers = len(footprint.layers)
        self.nodes: dict[str, Node] = {}
        self.tally = Tally()
        self._mover = Mover(footprint)
        self._tainted: set[str] = set()
        """Nodes that were caught, whether they are still here or not."""
        self.roster = Roster(self.nodes, self.layers)
        self.kv_budget = KvBudget(self.nodes, self.layers, self.roster, self._tainted)
        self._caught: dict[bytes, str] = {}
        """The keys of nodes that were caught, each with the reason."""
        self._handlers: dict[type, Callable[..., list[Action]]] = {
            Joined: self._joined,
            Progressed: self._progressed,
            BecameReady: self._ready,
            Resized: self._resized,
            Left: self._left,
            Stalled: self._stalled,
            Revived: self._revived,
            Leaves: self._leaves,
            Lends: self._lends,
            Keeps: self._keeps,
            Pauses: self._pauses,
            Resumes: self._resumes,
            Quarantined: self._quarantined,
            Rebalance: self._rebalance,
        }

    def handle(self, event: Event) -> list[Action]:
        return self._handlers[type(event)](event)

    def _become(self, node: Node, state: NodeState, destination: Span | None = None, reason: str = "") -> None:
        """Change a node's state. All changes of states are made here, so that the roster learns of them."""
        node.state, node.destination, node.reason, node.there = state, destination, reason, None
        self.roster.changed()

    def _joined(self, event: Joined) -> list[Action]:
        try:
            node = self.newcomer(event)
        except Refused as error:
            return [Refuse(event.node, str(error))]
        self.tally.incidents[Incident.JOINED] += 1
        self.nodes[event.node] = node
        self.roster.changed()
        return [Admit(event.node, node.span)]

    def check(self, key: bytes) -> None:
        """Raises Refused for the key of a node that was caught."""
        if key in self._caught:
            raise Refused(f"This node is in quarantine: {self._caught[key]}.")

    def newcomer(self, event: Joined, placed: Sequence[Placed] = ()) -> Node:
        """The node, with the span that it would serve beside these or those that are here. Raises Refused with the
        reason. Nothing is changed.
        """
        self.check((hello := event.hello).key)
        if hello.model and hello.model != self.digest:
            raise Refused(f"Your model has the hash {hello.model[:16]}, this swarm serves {self.digest[:16]}.")
        rate = plausible_rate(hello.bytes_per_s)
        machine = Machine(event.node, hello.memory, rate, *event.speed, counted(hello.gpu_memory))
        span = self._wanted(hello) or best_span(self.footprint, placed or self.placed(), machine)
        if span is None:
            smallest = smallest_span(self.footprint)
            needed = in_mib(self.footprint.beside(machine.card, smallest))
            reason = f"Even the smallest span, {smallest}, needs {needed} MiB of memory"
            raise Refused(f"{reason}; you offer {offered(hello)}.")
        return Node(
            hello.name,
            hello.software,
            span,
            hello.threads,
            hello.memory,
            machine.bytes_per_s,
            hello.movable,
            key=hello.key,
            entry=event.entry,
            speed=event.speed,
            gpu_memory=hello.gpu_memory,
        )

    def _wanted(self, hello: Hello) -> Span | None:
        """The span that the node asks for; None if the choice is left to the coordinator.

        A node that comes back asks for what it held, though its owner did not choose it: if that is no longer right,
        the node gets other layers. Raises Refused when it is wrong, and its owner's choice.
        """
        if hello.span is None or not (objection := self._objection(hello.span, hello)):
            return hello.span
        if hello.movable:
            return None
        raise Refused(objection)

    def _objection(self, span: Span, hello: Hello) -> str:
        """Why this node cannot serve the span; empty if it can."""
        try:
            needed = self.footprint.beside(counted(hello.gpu_memory), self.footprint.cuts.check(span))
        except SpanError as error:
            return str(error)
        if needed <= hello.memory:
            return ""
        beside = " beside your graphics card" if hello.gpu_memory else ""
        reason = f"Layers {span} need {in_mib(needed)} MiB of memory{beside}; you offer {hello.memory >> 20}."
        return f"{reason} Serve fewer layers, or offer more with --memory."

    def prospect(self, name: str, node: Node) -> Prospect:
        """The gain that this node brings to all others, whether it is here yet or not."""
        others = [one for one in self.placed() if one.machine.name != name]
        machine = Machine(name, node.memory, node.bytes_per_s, *node.speed, counted(node.gpu_memory))
        return prospect(self.footprint, others, Placed(machine, node.span))

    def _rate(self, node: Node) -> float:
        """The bytes of weights a second that the node claimed when it loaded, unless its steps show it to be much
        slower.

        It is then rounded to a power of two, so that plans do not change with every step.
        """
        seen = self._seen_rate(node)
        doubted = node.state is not NodeState.LOADING and seen * _DOUBTED < node.bytes_per_s
        return 2.0 ** round(math.log2(seen)) if doubted else node.bytes_per_s

    def _seen_rate(self, node: Node) -> float:
        """The bytes of weights a second that its latest steps show; before the first step, what it claimed when it
        loaded.
        """
        return self.footprint.work(node.span) / max(node.measure.token_s, 1e-9)

    def placed(self) -> list[Placed]:
        """The nodes as planning sees them. Those that are loading count; those that leave or pause do not."""
        return [
            Placed(node.machine(name, self._rate(node)), node.destination or node.span)
            for name, node in self.nodes.items()
            if node.state not in (NodeState.LEAVING, NodeState.PAUSED, NodeState.QUARANTINED)
        ]

    def limit(self) -> str:
        """The limit of the nodes that serve now, in a sentence; empty if none does."""
        ready = self.roster.ready.values()
        serving = [Placed(node.machine(node.name, self._seen_rate(node)), node.span) for node in ready]
        return limit_sentence(self.footprint, serving) if serving else ""

    def _progressed(self, event: Progressed) -> list[Action]:
        if not 0 <= event.fraction <= 1:
            raise WireError(f"{event.fraction} is not a fraction between 0 and 1.")
        node = self.nodes[event.node]
        node.fraction = max(node.fraction, event.fraction)
        return []

    def _ready(self, event: BecameReady) -> list[Action]:
        check_ready(event.ready)
        node = self.nodes[event.node]
        if node.state is not NodeState.LOADING:
            raise WireError("A node that serves already says that it is ready.")
        node.fraction, node.ready = 1.0, event.ready
        self._become(node, NodeState.READY)
        # A newcomer's link is taken to be as good as the best one, so that it gets sessions and is measured.
        others = [other.measure.hop_s for name, other in self.roster.ready.items() if name != event.node]
        node.measure = Measure.of(event.ready.speed, min(others, default=HOP_S), self.footprint.sums)
        node.bytes_per_s = plausible_rate(self.footprint.work(node.span) / event.ready.speed.decode_s)
        return [Changed()]

    def _resized(self, event: Resized) -> list[Action]:
        if not 1 <= event.threads <= _MOST_THREADS:
            raise WireError(f"{event.threads} is not a possible number of threads.")
        self.nodes[event.node].threads = event.threads
        return []

    def _left(self, event: Left) -> list[Action]:
        node = self.nodes.pop(event.node, None)
        if node is None:
            return []
        self.roster.changed()
        lent = is_lent(node) and not node.reserved
        left = lent or node.state in (NodeState.LEAVING, NodeState.QUARANTINED)
        self.tally.incidents[Incident.LEFT if left else Incident.LOST] += 1
        reason = f"Node {node.name}, which served layers {node.span}, has left."
        return [*self._lose_all(node, reason), *self._keep_needed(), Changed()]

    def _lose_all(self, node: Node, reason: str) -> list[Action]:
        """Break all of the node's sessions."""
        parked = self._drop_parked(node, reason)
        lost = list(node.reserved)
        for session in lost:
            node.forget(session)
        return [*parked, *(Break(session, reason) for session in lost)]

    def _drop_parked(self, node: Node, reason: str) -> list[Action]:
        """Break the node's parked sessions. Other nodes keep their parts."""
        parked = list(node.parked)
        for session in parked:
            node.forget(session)
        return [Break(session, reason) for session in parked]

    def _stalled(self, event: Stalled) -> list[Action]:
        node = self.nodes[event.node]
        if node.state in (NodeState.READY, NodeState.MOVING):
            self._become(node, NodeState.STALLED)
            self.tally.incidents[Incident.STALLED] += 1
        reason = f"Node {node.name}, which serves layers {node.span}, is passed over: {event.reason}."
        told = Tell(event.node, f"The coordinator passes this node over: {event.reason}.")
        return [*self._lose_all(node, reason), told, *self._keep_needed(), *self.let_go()]

    def _revived(self, event: Revived) -> list[Action]:
        node = self.nodes[event.node]
        if node.state is not NodeState.STALLED:
            return []
        self._become(node, NodeState.READY)
        return [Tell(event.node, "The coordinator uses this node again."), Changed()]

    def _quarantined(self, event: Quarantined) -> list[Action]:
        node = self.nodes.get(event.node)
        self._tainted.add(event.node)
        self._caught[event.key] = event.reason
        if node is None:
            return []
        self.tally.incidents[Incident.QUARANTINED] += 1
        self._become(node, NodeState.QUARANTINED, reason=event.reason)
        reason = f"Node {node.name}, which served layers {node.span}, is in quarantine: {event.reason}."
        told = Tell(event.node, f"The coordinator no longer uses this node: {event.reason}.")
        return [*self._lose_all(node, reason), told, *self._keep_needed(), *self.let_go(), Changed()]

    def shun(self, key: bytes, reason: str) -> None:
        """Nodes with this key may not come. reason: what one of them did."""
        self._caught[key] = reason

    def pardon(self, key: bytes) -> None:
        """Nodes with this key may come again."""
        self._caught.pop(key, None)

    def _leaves(self, event: Leaves) -> list[Action]:
        node = self.nodes[event.node]
        self._become(node, NodeState.LEAVING)
        dropped = self._drop_parked(node, f"Node {node.name} leaves.")
        return [*dropped, *self._keep_needed(), *self.let_go(), Changed()]

    def _lends(self, event: Lends) -> list[Action]:
        node = self.nodes[event.node]
        if event.node not in (self.roster.ready if event.given else self.roster.spare):
            return []
        node.given = event.given
        self._become(node, NodeState.MOVING)
        node.there, whose = event.there, "model" if event.there is None else "coordinator"
        told = Tell(event.node, f"Another {whose} needs this node more: it moves there.")
        dropped = self._drop_parked(node, f"Node {node.name} moves to another {whose}.")
        return [told, *dropped, *self.let_go(), Changed()]

    def _keeps(self, event: Keeps) -> list[Action]:
        node = self.nodes[event.node]
        if not is_lent(node):
            return []
        node.given = False
        self._become(node, NodeState.READY)
        return [Tell(event.node, "No other model needs this node any more: it stays."), Changed()]

    def _pauses(self, event: Pauses) -> list[Action]:
        """Pause a node. One that loads says so again when it is ready; one that leaves, or was caught, is already
        passed over.
        """
        node = self.nodes[event.node]
        if node.state not in (NodeState.READY, NodeState.MOVING, NodeState.STALLED, NodeState.PAUSED):
            return []
        if node.state is not NodeState.PAUSED:
            self.tally.incidents[Incident.PAUSED] += 1
        self._become(node, NodeState.PAUSED, reason=str(event.reason))
        dropped = self._drop_parked(node, f"Node {node.name} pauses.")
        return [*dropped, *self._keep_needed(), *self.let_go(), Changed()]

    def _resumes(self, event: Resumes) -> list[Action]:
        node = self.nodes[event.node]
        if node.state is not NodeState.PAUSED:
            return []
        self._become(node, NodeState.READY)
        return [Changed()]

    def _rebalance(self, _: Rebalance) -> list[Action]:
        """Move a node once its sessions are with others, and only while others serve its layers: make before break."""
        wish = self._wanted_move()
        if wish is None:
            return []
        node = self.nodes[wish.name]
        self._become(node, NodeState.MOVING, wish.span)
        told = Tell(wish.name, f"Layers {wish.span} need this node more: it moves there.")
        dropped = self._drop_parked(node, f"Node {node.name} moves to layers {wish.span}.")
        return [told, *dropped, *self.let_go(), Changed()]

    def _wanted_move(self) -> Move | None:
        """The move that looks right now; None while a node loads, leaves or moves."""
        settled = (NodeState.READY, NodeState.STALLED, NodeState.PAUSED, NodeState.QUARANTINED)
        if any(node.state not in settled for node in self.nodes.values()):
            self._mover.reset()
            return None
        ready = self.roster.ready.items()
        # Without round trips, which change all the time and do not matter here.
        placed = [
            Placed(structs.replace(node.machine(name, self._rate(node)), round_trip_s=0.0), node.span)
            for name, node in ready
        ]
        return self._mover.look(placed, {name for name, node in ready if node.movable})

    def _keep_needed(self) -> list[Action]:
        """Keep a moving node where it is if it has become the only one at some layer."""
        served = self.served()
        kept: list[Action] = []
        for name, node in self.nodes.items():
            if (
                node.state is NodeState.MOVING
                and not node.given
                and not all(served[node.span.first : node.span.last + 1])
            ):
                self._become(node, NodeState.READY)
                kept += [Tell(name, f"Layers {node.span} need this node again: it stays."), Changed()]
        return kept

    def let_go(self) -> list[Action]:
        """Let nodes go that leave or move and no longer hold anything."""
        going = [(name, node) for name, node in self.roster.going.items() if not node.reserved]
        free = [(name, node) for name, node in going if node.state is not NodeState.PAUSED]
        return [LetGo(name) if node.destination is None else self._move(name, node.destination) for name, node in free]

    def _move(self, name: str, span: Span) -> Admit:
        node = self.nodes[name]
        node.span, node.fraction, node.ready = span, 0.0, NOT_READY
        self.tally.incidents[Incident.MOVED] += 1
        self._become(node, NodeState.LOADING)
        return Admit(name, span)

    def served(self) -> list[int]:
        """How many ready nodes serve each layer."""
        return list(self.roster.served)

    def missing(self) -> list[Span]:
        """The spans of layers that no ready node serves."""
        return list(self.roster.missing)

    def release(self, session: int) -> list[Action]:
        """Free the room of a session that has ended."""
        self.kv_budget.release(session)
        return [*self.let_go(), Changed()]
