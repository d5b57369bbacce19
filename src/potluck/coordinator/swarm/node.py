"""One node as the coordinator knows it, and how far its own words are believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from potluck.coordinator.members.door import STRANGER, Entry
from potluck.coordinator.swarm.linkspeed import UNKNOWN, LinkSpeed
from potluck.coordinator.swarm.measure import Measure
from potluck.errors import WireError
from potluck.planning.machine import Machine
from potluck.types import MAX_STEP_ROWS, Capacity, Coordinator, NodeState, Span, Speed, is_label
from potluck.wire.messages import Hello, Ready

_SLOWEST, _QUICKEST = 1e6, 1e13
"""The slowest and the fastest plausible rates, in bytes a second."""
_SLOWEST_TOKEN_S = 60.0
_CARD_UNIT = 64 << 20
NOT_READY = Ready(Capacity(0, 0, 0), Speed(0.0, 0.0), "", "")


@dataclass(slots=True)
class Node:
    """One admitted node. `reserved` counts the positions promised to each session on it.

    memory, gpu_memory: the bytes that it offers, of its memory and of its graphics cards.
    bytes_per_s: of weights that it reads in decoding. movable: its owner did not choose the layers.
    parked: the sessions whose answer has ended, and which are kept only as long as nobody needs their room.
    destination: the layers that a moving node is to serve next. there: the coordinator to which it is to go.
    key: its public key, by which it is recognised when it comes again; nodes of one name and machine share one.
    speed: that of its link when it came.
    reason: why it is in quarantine, or paused.
    """

    name: str
    software: str
    span: Span
    threads: int
    memory: int
    bytes_per_s: float
    movable: bool = False
    key: bytes = b""
    entry: Entry = STRANGER
    speed: LinkSpeed = UNKNOWN
    state: NodeState = NodeState.LOADING
    fraction: float = 0.0
    ready: Ready = NOT_READY
    reserved: dict[int, int] = field(default_factory=dict)
    parked: set[int] = field(default_factory=set)
    measure: Measure = field(default_factory=lambda: Measure.of(NOT_READY.speed))
    held: int = 0
    """The sessions that its engine holds, as it last said."""
    rows: int = 0
    """The rows that it has computed since it came."""
    audited_at: int | None = None
    """The Unix time of its latest audit."""
    destination: Span | None = None
    there: Coordinator | None = None
    reason: str = ""
    gpu_memory: int = 0
    given: bool = False
    """Whether it goes to another model even if its layers are needed here."""

    _promised: int = 0
    """The positions of all sessions."""
    _kept: int = 0
    """The positions of the parked ones."""

    @property
    def open_sessions(self) -> int:
        return len(self.reserved) - len(self.parked)

    def machine(self, name: str, bytes_per_s: float) -> Machine:
        """The node as planning sees it, with this speed."""
        return Machine(
            name, self.memory, bytes_per_s, self.measure.hop_s, self.speed.bytes_per_s, counted(self.gpu_memory)
        )

    def has_room(self, session: int, positions: int, evicting: bool = False, spare: int = 0) -> bool:
        """Whether this session, new or not, may have this many positions. evicting: as if the parked ones were gone.

        spare: positions of one more session that must find room beside it then, for which the parked ones would go.
        """
        fits = self._fits(session, positions, 1, evicting)
        return fits and (not spare or self._fits(session, positions + spare, 2, evicting=True))

    def _fits(self, session: int, positions: int, sessions: int, evicting: bool) -> bool:
        others, promised = len(self.reserved), self._promised
        if evicting:
            others, promised = others - len(self.parked), promised - self._kept
        if session in self.reserved and not (evicting and session in self.parked):
            others, promised = others - 1, promised - self.reserved[session]
        capacity = self.ready.capacity
        return positions + promised <= capacity.positions and others + sessions <= capacity.sessions

    def reserve(self, session: int, positions: int) -> None:
        """Promise a session, new or not, these positions. It is not parked then."""
        self.forget(session)
        self.reserved[session] = positions
        self._promised += positions

    def park(self, session: int, positions: int) -> None:
        """Keep a session with these positions as long as nobody needs its room."""
        self.reserve(session, positions)
        self.parked.add(session)
        self._kept += positions

    def forget(self, session: int) -> None:
        positions = self.reserved.pop(session, 0)
        self._promised -= positions
        if session in self.parked:
            self.parked.remove(session)
            self._kept -= positions


def counted(gpu_memory: int) -> int:
    """The bytes of a node's graphics cards as planning counts them: in whole units, so that there are few sizes."""
    return gpu_memory // _CARD_UNIT * _CARD_UNIT


def plausible_rate(bytes_per_s: float) -> float:
    """The node's own figure of its speed, within what machines have. Raises WireError when it is not a number."""
    if not math.isfinite(bytes_per_s):
        raise WireError("A node's speed must be a number of bytes a second.")
    return min(max(bytes_per_s, _SLOWEST), _QUICKEST)


def ready_nodes(nodes: Mapping[str, Node]) -> dict[str, Node]:
    """The nodes that serve now, in their order."""
    return {name: node for name, node in nodes.items() if node.state is NodeState.READY}


def called(nodes: Mapping[str, Node], name: str) -> str:
    """A node as the log names it, whether it is one of these or not."""
    known = nodes.get(name)
    return f"Node {known.name} ({name})" if known else f"Node {name}"


def check_ready(ready: Ready) -> None:
    """Raises WireError when the node's own figures make no sense, because routes depend on them."""
    speed, capacity = ready.speed, ready.capacity
    if not all(math.isfinite(seconds) and seconds > 0 for seconds in (speed.decode_s, speed.prefill_s)):
        raise WireError("A node's speed must be positive numbers of seconds.")
    if speed.decode_s > _SLOWEST_TOKEN_S:
        raise WireError("A node's speed must be that of a real computer.")
    if not all(map(is_label, (ready.twin, ready.layout))):
        raise WireError("A node's marks must be short and printable.")
    if min(capacity.sessions, capacity.positions) < 1 or capacity.rows < MAX_STEP_ROWS:
        raise WireError(f"A node must hold at least one session, and {MAX_STEP_ROWS} rows a batch.")


def is_lent(node: Node) -> bool:
    """Whether the node is to go to another model, or to another coordinator."""
    return node.state is NodeState.MOVING and node.destination is None


def offered(hello: Hello) -> str:
    """The MiB that a node offers, in words."""
    cards = f", and {hello.gpu_memory >> 20} of graphics cards" if hello.gpu_memory else ""
    return f"{hello.memory >> 20}{cards}"
