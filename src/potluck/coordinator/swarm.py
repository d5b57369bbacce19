"""Who serves what: the swarm's state as a machine without I/O. Events in, actions out."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from potluck.errors import Unavailable, WireError
from potluck.planning.cost import Footprint
from potluck.planning.placement import choose_span
from potluck.planning.routing import Server, choose_route, missing_layers
from potluck.types import MAX_STEP_ROWS, Capacity, NodeState, Span, Speed, Stage, spans_of
from potluck.wire.messages import Hello, Ready


@dataclass(frozen=True, slots=True)
class Joined:
    node: str
    hello: Hello


@dataclass(frozen=True, slots=True)
class Progressed:
    node: str
    fraction: float


@dataclass(frozen=True, slots=True)
class BecameReady:
    node: str
    ready: Ready


@dataclass(frozen=True, slots=True)
class Resized:
    """The node computes with another number of threads."""

    node: str
    threads: int


@dataclass(frozen=True, slots=True)
class Left:
    node: str


Event = Joined | Progressed | BecameReady | Resized | Left


@dataclass(frozen=True, slots=True)
class Admit:
    """Tell the node which span it serves."""

    node: str
    span: Span


@dataclass(frozen=True, slots=True)
class Refuse:
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Break:
    """A session lost a stage of its route."""

    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class Changed:
    """Room or coverage may have grown: whoever waits for a route should ask again."""


Action = Admit | Refuse | Break | Changed


_LONGEST_NAME = 64
_MOST_THREADS = 1024
_NOT_READY = Ready(Capacity(0, 0, 0), Speed(0.0, 0.0), "", "")


@dataclass(slots=True)
class Node:
    """One admitted node. `reserved` counts the positions promised to each session on it.

    parked: those of them whose answer has ended, and which are kept only as long as nobody needs their room.
    """

    name: str
    software: str
    span: Span
    threads: int
    memory: int
    state: NodeState = NodeState.LOADING
    fraction: float = 0.0
    ready: Ready = _NOT_READY
    reserved: dict[int, int] = field(default_factory=dict)
    parked: set[int] = field(default_factory=set)

    @property
    def open_sessions(self) -> int:
        return len(self.reserved) - len(self.parked)

    def has_room(self, session: int, positions: int, evicting: bool = False) -> bool:
        """Whether this session, new or not, may have so many. evicting: as if the parked ones were gone."""
        gone = {session, *self.parked} if evicting else {session}
        others = [promised for other, promised in self.reserved.items() if other not in gone]
        capacity = self.ready.capacity
        return positions + sum(others) <= capacity.positions and len(others) < capacity.sessions

    def forget(self, session: int) -> None:
        self.reserved.pop(session, None)
        self.parked.discard(session)


def _check_ready(ready: Ready) -> None:
    """What a node says of itself decides over routes, so it must make sense. Raises WireError."""
    speed, capacity = ready.speed, ready.capacity
    if not all(math.isfinite(seconds) and seconds > 0 for seconds in (speed.decode_s, speed.prefill_s)):
        raise WireError("A node's speed must be positive numbers of seconds.")
    if min(capacity.sessions, capacity.positions) < 1 or capacity.rows < MAX_STEP_ROWS:
        raise WireError(f"A node must hold at least one session, and {MAX_STEP_ROWS} rows a batch.")


class Swarm:
    """The nodes of one model, with `digest`, `layers` layers and sizes as `footprint` says."""

    def __init__(self, digest: str, footprint: Footprint) -> None:
        self._digest = digest
        self._footprint = footprint
        self.layers = len(footprint.layers)
        self.nodes: dict[str, Node] = {}
        self._handlers: dict[type, Callable[..., list[Action]]] = {
            Joined: self._joined,
            Progressed: self._progressed,
            BecameReady: self._ready,
            Resized: self._resized,
            Left: self._left,
        }

    def handle(self, event: Event) -> list[Action]:
        return self._handlers[type(event)](event)

    def _joined(self, event: Joined) -> list[Action]:
        hello = event.hello
        if not hello.name.isprintable() or len(hello.name) > _LONGEST_NAME:
            return [Refuse(event.node, f"A node's name is up to {_LONGEST_NAME} printable characters.")]
        if hello.model and hello.model != self._digest:
            reason = f"Your model has the hash {hello.model[:16]}, this swarm serves {self._digest[:16]}."
            return [Refuse(event.node, reason)]
        if hello.span is not None and hello.span.last >= self.layers:
            reason = f"Span {hello.span} is outside the model: its layers are 0-{self.layers - 1}."
            return [Refuse(event.node, reason)]
        if hello.span is not None and (needed := self._footprint.of(hello.span)) > hello.memory:
            reason = f"Layers {hello.span} need {needed >> 20} MiB of memory; you offer {hello.memory >> 20}."
            return [Refuse(event.node, f"{reason} Serve fewer layers, or offer more with --memory.")]
        span = hello.span or choose_span(self.served(NodeState.LOADING), self._footprint, hello.memory)
        if span is None:
            needed = min(self._footprint.of(Span(layer, layer)) for layer in range(self.layers))
            return [
                Refuse(event.node, f"One layer needs {needed >> 20} MiB of memory; you offer {hello.memory >> 20}.")
            ]
        self.nodes[event.node] = Node(hello.name, hello.software, span, hello.threads, hello.memory)
        return [Admit(event.node, span)]

    def _progressed(self, event: Progressed) -> list[Action]:
        if not 0 <= event.fraction <= 1:
            raise WireError(f"{event.fraction} is no fraction of the work of loading.")
        self.nodes[event.node].fraction = event.fraction
        return []

    def _ready(self, event: BecameReady) -> list[Action]:
        _check_ready(event.ready)
        node = self.nodes[event.node]
        node.state, node.fraction, node.ready = NodeState.READY, 1.0, event.ready
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
        for session in node.reserved:
            self._release(session)
        reason = f"Node {node.name}, which served layers {node.span}, has left."
        return [*(Break(session, reason) for session in node.reserved), Changed()]

    def served(self, at_least: NodeState = NodeState.READY) -> list[int]:
        """How many nodes serve each layer; with LOADING those that are still loading count as well."""
        nodes = [node for node in self.nodes.values() if at_least is NodeState.LOADING or node.state is at_least]
        return [sum(layer in node.span for node in nodes) for layer in range(self.layers)]

    def missing(self) -> list[Span]:
        """Spans of layers that no ready node serves."""
        ready = (node.span for node in self.nodes.values() if node.state is NodeState.READY)
        return spans_of(missing_layers(self.layers, ready))

    def reserve(self, session: int, positions: int, avoid: Collection[str] = ()) -> tuple[Stage, ...] | None:
        """A route for the session with room for so many positions on every stage, or None when all is taken now.

        avoid: nodes that are taken only where there is no other way. Raises Unavailable as `check` does.
        """
        self.check(positions)
        roomy = self._roomy(session, positions)
        route = self._route({name: node for name, node in roomy.items() if name not in avoid}) or self._route(roomy)
        for stage in route or ():
            self.nodes[stage.node].reserved[session] = positions
        return route

    def check(self, positions: int) -> None:
        """Raises Unavailable, naming them, when layers are not covered, or when no nodes could ever hold so many."""
        if missing := self.missing():
            raise Unavailable(f"No node serves layers {', '.join(map(str, missing))} now.")
        big = {name: node for name, node in self._ready_nodes() if positions <= node.ready.capacity.positions}
        if self._route(big) is None:
            raise Unavailable(f"No route of this swarm can hold {positions} positions; ask for fewer tokens.")

    def has_route_without_parked(self, session: int, positions: int) -> bool:
        """Whether a new session would find room if all parked ones were evicted."""
        return self._route(self._roomy(session, positions, evicting=True)) is not None

    def _ready_nodes(self) -> list[tuple[str, Node]]:
        return [(name, node) for name, node in self.nodes.items() if node.state is NodeState.READY]

    def _roomy(self, session: int, positions: int, evicting: bool = False) -> dict[str, Node]:
        return {name: node for name, node in self._ready_nodes() if node.has_room(session, positions, evicting)}

    def _route(self, nodes: dict[str, Node]) -> tuple[Stage, ...] | None:
        servers = [Server(name, node.span, node.ready.speed, node.open_sessions) for name, node in nodes.items()]
        return choose_route(self.layers, servers)

    def park(self, session: int, positions: int) -> None:
        """The session's answer has ended: it keeps only the positions that it holds, and those on demand."""
        for node in self._nodes_of(session):
            node.reserved[session] = positions
            node.parked.add(session)

    def can_resume(self, session: int, positions: int, *, evicting: bool = False) -> bool:
        """Whether every stage of a parked session has room for so many positions of it."""
        return all(node.has_room(session, positions, evicting) for node in self._nodes_of(session))

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
        return [Changed()]

    def _release(self, session: int) -> None:
        for node in self.nodes.values():
            node.forget(session)
