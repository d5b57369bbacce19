"""Who serves what: the swarm's state as a machine without I/O. Events in, actions out."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from itertools import groupby
from typing import NamedTuple

from msgspec import structs

from potluck.coordinator.events import (
    Action,
    Admit,
    BecameReady,
    Break,
    Changed,
    Event,
    Joined,
    Leaves,
    Left,
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
from potluck.coordinator.measure import Measure
from potluck.coordinator.mover import Mover
from potluck.coordinator.node import NOT_READY, Node, check_ready, plausible_rate
from potluck.coordinator.tally import Incident, Tally
from potluck.errors import Unavailable, WireError
from potluck.planning.cost import HOP_S, Footprint
from potluck.planning.limit import limit_sentence
from potluck.planning.machine import Machine, Placed
from potluck.planning.placement import best_span
from potluck.planning.rebalancing import Move
from potluck.planning.routing import Server, choose_route, missing_layers
from potluck.types import NodeState, Span, Stage, spans_of
from potluck.wire.messages import MOST_STATE


class Mended(NamedTuple):
    """A session's route, and the runs (first, last) of its stages that hold nothing of the session yet."""

    route: tuple[Stage, ...]
    runs: tuple[tuple[int, int], ...]


_GOING = (NodeState.LEAVING, NodeState.MOVING, NodeState.PAUSED)
"""Their sessions are handed over."""
_MOST_THREADS = 1024
_DOUBTED = 8.0
"""A node that is slower by such a factor than it said when it loaded is taken to be as slow as it is."""


class Swarm:
    """The nodes of one model, with `digest`, `layers` layers and sizes as `footprint` says."""

    def __init__(self, digest: str, footprint: Footprint) -> None:
        self._digest = digest
        self._footprint = footprint
        self.layers = len(footprint.layers)
        self.nodes: dict[str, Node] = {}
        self.tally = Tally()
        self._mover = Mover(footprint)
        self._tainted: set[str] = set()
        """Nodes that were caught, whether they are still here or not."""
        self._caught: dict[bytes, str] = {}
        """Their keys, each with the reason."""
        self._handlers: dict[type, Callable[..., list[Action]]] = {
            Joined: self._joined,
            Progressed: self._progressed,
            BecameReady: self._ready,
            Resized: self._resized,
            Left: self._left,
            Stalled: self._stalled,
            Revived: self._revived,
            Leaves: self._leaves,
            Pauses: self._pauses,
            Resumes: self._resumes,
            Quarantined: self._quarantined,
            Rebalance: self._rebalance,
        }

    def handle(self, event: Event) -> list[Action]:
        return self._handlers[type(event)](event)

    def _joined(self, event: Joined) -> list[Action]:
        hello = event.hello
        if hello.key in self._caught:
            return [Refuse(event.node, f"This node is in quarantine: {self._caught[hello.key]}.")]
        if hello.model and hello.model != self._digest:
            reason = f"Your model has the hash {hello.model[:16]}, this swarm serves {self._digest[:16]}."
            return [Refuse(event.node, reason)]
        if hello.span is not None and hello.span.last >= self.layers:
            reason = f"Span {hello.span} is outside the model: its layers are 0-{self.layers - 1}."
            return [Refuse(event.node, reason)]
        if hello.span is not None and (needed := self._footprint.of(hello.span)) > hello.memory:
            reason = f"Layers {hello.span} need {needed >> 20} MiB of memory; you offer {hello.memory >> 20}."
            return [Refuse(event.node, f"{reason} Serve fewer layers, or offer more with --memory.")]
        machine = Machine(event.node, hello.memory, plausible_rate(hello.bytes_per_s), *event.speed)
        span = hello.span or best_span(self._footprint, self._placed(), machine)
        if span is None:
            needed = min(self._footprint.of(Span(layer, layer)) for layer in range(self.layers))
            return [
                Refuse(event.node, f"One layer needs {needed >> 20} MiB of memory; you offer {hello.memory >> 20}.")
            ]
        self.tally.incidents[Incident.JOINED] += 1
        self.nodes[event.node] = Node(
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
        )
        return [Admit(event.node, span)]

    def _rate(self, node: Node) -> float:
        """Bytes of weights a second: what it said when it loaded, unless its steps show it to be much slower.

        Then in powers of two, so that plans do not change with every step.
        """
        seen = self._footprint.work(node.span) / max(node.measure.token_s, 1e-9)
        doubted = node.state is not NodeState.LOADING and seen * _DOUBTED < node.bytes_per_s
        return 2.0 ** round(math.log2(seen)) if doubted else node.bytes_per_s

    def _placed(self) -> list[Placed]:
        """The nodes as planning sees them; those that are still loading count, those that leave or pause do not."""
        return [
            Placed(node.machine(name, self._rate(node)), node.destination or node.span)
            for name, node in self.nodes.items()
            if node.state not in (NodeState.LEAVING, NodeState.PAUSED, NodeState.QUARANTINED)
        ]

    @property
    def streams(self) -> int:
        """Sessions for which nodes hold room and that are not parked."""
        return len({session for node in self.nodes.values() for session in node.reserved.keys() - node.parked})

    def limit(self) -> str:
        """What limits the nodes that serve now, in a sentence; empty where none does."""
        serving = [Placed(node.machine(node.name, self._rate(node)), node.span) for _, node in self._ready_nodes()]
        return limit_sentence(self._footprint, serving) if serving else ""

    def _progressed(self, event: Progressed) -> list[Action]:
        if not 0 <= event.fraction <= 1:
            raise WireError(f"{event.fraction} is no fraction of the work of loading.")
        node = self.nodes[event.node]
        node.fraction = max(node.fraction, event.fraction)
        return []

    def _ready(self, event: BecameReady) -> list[Action]:
        check_ready(event.ready)
        node = self.nodes[event.node]
        if node.state is not NodeState.LOADING:
            raise WireError("A node that serves already says that it is ready.")
        node.state, node.fraction, node.ready = NodeState.READY, 1.0, event.ready
        # A newcomer's link is taken to be as good as the best one, so that it gets sessions and is measured.
        others = [other.measure.hop_s for name, other in self._ready_nodes() if name != event.node]
        node.measure = Measure.of(event.ready.speed, min(others, default=HOP_S))
        node.bytes_per_s = plausible_rate(self._footprint.work(node.span) / event.ready.speed.decode_s)
        return [Changed()]

    def _resized(self, event: Resized) -> list[Action]:
        if not 1 <= event.threads <= _MOST_THREADS:
            raise WireError(f"{event.threads} is no number of threads.")
        self.nodes[event.node].threads = event.threads
        return []

    def _left(self, event: Left) -> list[Action]:
        node = self.nodes.pop(event.node, None)
        if node is None:
            return []
        left = node.state in (NodeState.LEAVING, NodeState.QUARANTINED)
        self.tally.incidents[Incident.LEFT if left else Incident.LOST] += 1
        reason = f"Node {node.name}, which served layers {node.span}, has left."
        return [*self._lose_all(node, reason), *self._keep_needed(), Changed()]

    def _lose_all(self, node: Node, reason: str) -> list[Action]:
        """The node's sessions have lost a stage; those that were parked are not kept either."""
        parked = self._drop_parked(node, reason)
        lost = [Break(session, reason) for session in node.reserved]
        node.reserved.clear()
        return [*parked, *lost]

    def _drop_parked(self, node: Node, reason: str) -> list[Action]:
        parked = list(node.parked)
        for session in parked:
            node.forget(session)  # it may have left the swarm already
            self._release(session)
        return [Break(session, reason) for session in parked]

    def _stalled(self, event: Stalled) -> list[Action]:
        node = self.nodes[event.node]
        if node.state in (NodeState.READY, NodeState.MOVING):
            node.state, node.destination = NodeState.STALLED, None
            self.tally.incidents[Incident.STALLED] += 1
        reason = f"Node {node.name}, which serves layers {node.span}, is passed over: {event.reason}."
        told = Tell(event.node, f"The coordinator passes this node over: {event.reason}.")
        return [*self._lose_all(node, reason), told, *self._keep_needed(), *self.let_go()]

    def _revived(self, event: Revived) -> list[Action]:
        node = self.nodes[event.node]
        if node.state is not NodeState.STALLED:
            return []
        node.state = NodeState.READY
        return [Tell(event.node, "The coordinator uses this node again."), Changed()]

    def _quarantined(self, event: Quarantined) -> list[Action]:
        node = self.nodes.get(event.node)
        self._tainted.add(event.node)
        self._caught[event.key] = event.reason
        if node is None:
            return []
        self.tally.incidents[Incident.QUARANTINED] += 1
        node.state, node.destination, node.reason = NodeState.QUARANTINED, None, event.reason
        reason = f"Node {node.name}, which served layers {node.span}, is in quarantine: {event.reason}."
        told = Tell(event.node, f"The coordinator does not use this node any more: {event.reason}.")
        return [*self._lose_all(node, reason), told, *self._keep_needed(), *self.let_go(), Changed()]

    def pardon(self, key: bytes) -> None:
        """Nodes with this key may come again."""
        self._caught.pop(key, None)

    def _leaves(self, event: Leaves) -> list[Action]:
        node = self.nodes[event.node]
        node.state, node.destination, node.reason = NodeState.LEAVING, None, ""
        dropped = self._drop_parked(node, f"Node {node.name} leaves.")
        return [*dropped, *self._keep_needed(), *self.let_go(), Changed()]

    def _pauses(self, event: Pauses) -> list[Action]:
        """One that loads says so again when it is ready; one that leaves, or was caught, is passed over already."""
        node = self.nodes[event.node]
        if node.state not in (NodeState.READY, NodeState.MOVING, NodeState.STALLED, NodeState.PAUSED):
            return []
        if node.state is not NodeState.PAUSED:
            self.tally.incidents[Incident.PAUSED] += 1
        node.state, node.destination, node.reason = NodeState.PAUSED, None, str(event.reason)
        dropped = self._drop_parked(node, f"Node {node.name} pauses.")
        return [*dropped, *self._keep_needed(), *self.let_go(), Changed()]

    def _resumes(self, event: Resumes) -> list[Action]:
        node = self.nodes[event.node]
        if node.state is not NodeState.PAUSED:
            return []
        node.state, node.reason = NodeState.READY, ""
        return [Changed()]

    def _rebalance(self, _: Rebalance) -> list[Action]:
        """Make before break: a node moves once its sessions are with others, and only while others serve its layers."""
        wish = self._wanted_move()
        if wish is None:
            return []
        node = self.nodes[wish.name]
        node.state, node.destination = NodeState.MOVING, wish.span
        told = Tell(wish.name, f"Layers {wish.span} need this node more: it moves there.")
        dropped = self._drop_parked(node, f"Node {node.name} moves to layers {wish.span}.")
        return [told, *dropped, *self.let_go(), Changed()]

    def _wanted_move(self) -> Move | None:
        """None while somebody loads, leaves or moves."""
        settled = (NodeState.READY, NodeState.STALLED, NodeState.PAUSED, NodeState.QUARANTINED)
        if any(node.state not in settled for node in self.nodes.values()):
            self._mover.reset()
            return None
        ready = self._ready_nodes()
        # Without round trips, which change all the time and do not matter here.
        placed = [
            Placed(structs.replace(node.machine(name, self._rate(node)), round_trip_s=0.0), node.span)
            for name, node in ready
        ]
        return self._mover.look(placed, {name for name, node in ready if node.movable})

    def _keep_needed(self) -> list[Action]:
        """A node that has become the only one at some layer does not move."""
        served = self.served()
        kept: list[Action] = []
        for name, node in self.nodes.items():
            if node.state is NodeState.MOVING and not all(served[node.span.first : node.span.last + 1]):
                node.state, node.destination = NodeState.READY, None
                kept += [Tell(name, f"Layers {node.span} need this node again: it stays."), Changed()]
        return kept

    def let_go(self) -> list[Action]:
        """Those that leave or move, and hold nothing any more, may do so."""
        going = [(name, node) for name, node in self.nodes.items() if node.state in _GOING and not node.reserved]
        free = [(name, node) for name, node in going if node.state is not NodeState.PAUSED]
        return [LetGo(name) if node.destination is None else self._move(name, node.destination) for name, node in free]

    def _move(self, name: str, span: Span) -> Admit:
        node = self.nodes[name]
        node.span, node.destination = span, None
        self.tally.incidents[Incident.MOVED] += 1
        node.state, node.fraction, node.ready = NodeState.LOADING, 0.0, NOT_READY
        return Admit(name, span)

    def served(self, at_least: NodeState = NodeState.READY) -> list[int]:
        """How many nodes serve each layer; with LOADING those that are still loading count as well."""
        nodes = [node for node in self.nodes.values() if at_least is NodeState.LOADING or node.state is at_least]
        return [sum(layer in node.span for node in nodes) for layer in range(self.layers)]

    def missing(self) -> list[Span]:
        """Spans of layers that no ready node serves."""
        ready = (node.span for node in self.nodes.values() if node.state is NodeState.READY)
        return spans_of(missing_layers(self.layers, ready))

    def reserve(
        self, session: int, positions: int, avoid: Collection[str] = (), spare: int = 0
    ) -> tuple[Stage, ...] | None:
        """A route for the session with room for so many positions on every stage, or None when all is taken now.

        avoid: nodes that are taken only where there is no other way. spare: as in `Node.has_room`.
        Raises Unavailable as `check` does.
        """
        self.check(positions)
        route = self._route(self._roomy(session, positions, spare=spare), avoid)
        for stage in route or ():
            self.nodes[stage.node].reserved[session] = positions
        return route

    def worth_moving(self, node: str, session: int) -> int:
        """Bytes of the session that the node's link carries while another one would compute them."""
        one = self.nodes[node]
        seconds = one.measure.row_s * one.reserved.get(session, 0)
        return int(min(MOST_STATE, one.speed.bytes_per_s * seconds))

    def reserve_on(self, node: str, session: int, positions: int) -> bool:
        """Room for so many positions of a session on this one node; False where there is none now."""
        if node not in self._roomy(session, positions):
            return False
        self.nodes[node].reserved[session] = positions
        return True

    def has_room_without_parked(self, node: str, session: int, positions: int) -> bool:
        """Whether the node would have room for a new session if all parked ones were evicted."""
        return node in self._roomy(session, positions, evicting=True)

    def give_up(self, session: int, route: Iterable[Stage]) -> list[str]:
        """A session that waits for lost layers keeps no node from going. Returns those that it was still on."""
        names = [stage.node for stage in self.going(session, route)]
        for name in names:
            self.nodes[name].forget(session)
        return names

    def wants_mending(self, session: int, route: Iterable[Stage]) -> bool:
        """Whether a stage of the session's route is lost, or about to leave."""
        return self.due(session, route) is not None

    def going(self, session: int, route: Iterable[Stage]) -> list[Stage]:
        """Those of its stages whose nodes are about to leave or pause, and still have it."""
        here = [(stage, self.nodes[stage.node]) for stage in route if stage.node in self.nodes]
        return [stage for stage, node in here if node.state in _GOING and session in node.reserved]

    def _is_due(self, session: int, stage: Stage) -> bool:
        """Whether another node has to take the stage."""
        node = self.nodes.get(stage.node)
        return node is None or session not in node.reserved or node.state in _GOING

    def mend(
        self, session: int, route: tuple[Stage, ...], positions: int, avoid: Collection[str] = ()
    ) -> Mended | None:
        """The session's route with others in place of stages that are lost or about to leave, with their room reserved.

        Twins of the lost nodes are preferred. None when nobody has the layers and the room; nothing is changed then.
        What later stages hold was computed from the rows of one that was caught, so that it counts as lost too.
        """
        mended = self._mended(session, route, self._roomy(session, positions), avoid)
        if mended is None:
            return None
        kept = {stage.node for stage in mended.route}
        for name, node in self.nodes.items():
            if name in kept:
                node.reserved[session] = positions
            else:
                node.forget(session)
        return mended

    def due(self, session: int, route: Iterable[Stage]) -> str | None:
        """The node of the first stage that another node has to take."""
        return next((stage.node for stage in route if self._is_due(session, stage)), None)

    def can_mend_without_parked(self, session: int, route: tuple[Stage, ...], positions: int) -> bool:
        """Whether `mend` would succeed if all parked sessions were evicted."""
        return self._mended(session, route, self._roomy(session, positions, evicting=True), ()) is not None

    def _mended(
        self, session: int, route: tuple[Stage, ...], roomy: dict[str, Node], avoid: Collection[str]
    ) -> Mended | None:
        stages: list[Stage] = []
        runs: list[tuple[int, int]] = []
        tainted: int | None = None
        for due, group in groupby(route, lambda stage: self._is_due(session, stage)):
            old = list(group)
            if not due:
                stages += old
                continue
            part = Span(old[0].span.first, old[-1].span.last)
            new = self._route(roomy, avoid, part, {stage.twin for stage in old})
            if new is None:
                return None
            if tainted is None and any(stage.node in self._tainted for stage in old):
                tainted = len(stages)
            runs.append((len(stages), len(stages) + len(new) - 1))
            stages += new
        if tainted is not None:
            runs = [*(run for run in runs if run[1] < tainted), (tainted, len(stages) - 1)]
        return Mended(tuple(stages), tuple(runs))

    def check(self, positions: int) -> None:
        """Raises Unavailable, naming them, when layers are not covered, or when no nodes could ever hold so many."""
        if missing := self.missing():
            raise Unavailable(f"No node serves layers {', '.join(map(str, missing))} now.")
        if not self.could_hold(positions):
            raise Unavailable(f"No route of this swarm can hold {positions} positions; ask for fewer tokens.")

    def could_hold(self, positions: int, sessions: int = 1) -> bool:
        """Whether an empty swarm has a route for so many positions, of so many sessions together."""
        big = {
            name: node
            for name, node in self._ready_nodes()
            if positions <= node.ready.capacity.positions and sessions <= node.ready.capacity.sessions
        }
        return self._route(big) is not None

    def has_route_without_parked(self, session: int, positions: int, spare: int = 0) -> bool:
        """Whether a new session would find room if all parked ones were evicted. spare: as in `Node.has_room`."""
        return self._route(self._roomy(session, positions, evicting=True, spare=spare)) is not None

    def _ready_nodes(self) -> list[tuple[str, Node]]:
        return [(name, node) for name, node in self.nodes.items() if node.state is NodeState.READY]

    def _roomy(self, session: int, positions: int, evicting: bool = False, spare: int = 0) -> dict[str, Node]:
        return {name: node for name, node in self._ready_nodes() if node.has_room(session, positions, evicting, spare)}

    def _route(
        self, nodes: dict[str, Node], avoid: Collection[str] = (), part: Span | None = None, twins: Collection[str] = ()
    ) -> tuple[Stage, ...] | None:
        """Through these nodes, of `part` (None: all layers), without those to avoid where there is another way."""
        part = part or Span(0, self.layers - 1)
        welcome = {name: node for name, node in nodes.items() if name not in avoid}
        route = choose_route(part, _servers(welcome), twins)
        if route is None and len(welcome) < len(nodes):
            return choose_route(part, _servers(nodes), twins)
        return route

    def park(self, session: int, positions: int) -> None:
        """The session's answer has ended: it keeps only the positions that it holds, and those on demand."""
        for node in self._nodes_of(session):
            node.reserved[session] = positions
            node.parked.add(session)

    def can_resume(self, session: int, positions: int, *, evicting: bool = False, spare: int = 0) -> bool:
        """Whether every stage of a parked session has room for so many positions of it.

        spare: as in `Node.has_room`.
        """
        return all(node.has_room(session, positions, evicting, spare) for node in self._nodes_of(session))

    def resume(self, session: int, positions: int) -> bool:
        """Open a parked session again, with so many positions on every stage of its route; False without room."""
        if not self.can_resume(session, positions):
            return False
        for node in self._nodes_of(session):
            node.reserved[session] = positions
            node.parked.remove(session)
        return True

    def _nodes_of(self, session: int) -> list[Node]:
        return [node for node in self.nodes.values() if session in node.reserved]

    def release(self, session: int) -> list[Action]:
        """The session has ended: its room is free again."""
        self._release(session)
        return [*self.let_go(), Changed()]

    def _release(self, session: int) -> None:
        for node in self.nodes.values():
            node.forget(session)


def _servers(nodes: dict[str, Node]) -> list[Server]:
    return [
        Server(name, node.span, node.measure.token_s, node.measure.hop_s, node.open_sessions, node.ready.twin)
        for name, node in nodes.items()
    ]
