"""What happens to the swarm, and what is to be done about it: the events and actions of `coordinator.swarm`."""

from __future__ import annotations

from dataclasses import dataclass

from potluck.coordinator.members.door import STRANGER, Entry
from potluck.coordinator.swarm.linkspeed import UNKNOWN, LinkSpeed
from potluck.types import PauseReason, Span
from potluck.wire.messages import Hello, Ready


@dataclass(frozen=True, slots=True)
class Joined:
    """A node that has proven the key in its hello; the door knows it by `entry`. speed: of its link."""

    node: str
    hello: Hello
    entry: Entry = STRANGER
    speed: LinkSpeed = UNKNOWN


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


@dataclass(frozen=True, slots=True)
class Stalled:
    """The node does not answer in time: it is passed over until it is `Revived`."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Revived:
    """A stalled node answers again."""

    node: str


@dataclass(frozen=True, slots=True)
class Leaves:
    """The node wants to go, once others have taken over its sessions."""

    node: str


@dataclass(frozen=True, slots=True)
class Pauses:
    """The node's owner wants the machine: others are to take over its sessions, until it `Resumes`."""

    node: str
    reason: PauseReason


@dataclass(frozen=True, slots=True)
class Resumes:
    node: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Audits have caught the node, here or gone: nothing that it computes is to be used, and its key stays outside."""

    node: str
    key: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Rebalance:
    """It is time to see whether a node would help more with other layers. Comes at regular intervals."""


Event = (
    Joined
    | Progressed
    | BecameReady
    | Resized
    | Left
    | Stalled
    | Revived
    | Leaves
    | Pauses
    | Resumes
    | Quarantined
    | Rebalance
)


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
    """A session lost a stage of its route. It keeps its room on the others, until it is mended or released."""

    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class Tell:
    """A sentence for the node's owner."""

    node: str
    text: str


@dataclass(frozen=True, slots=True)
class LetGo:
    """The node that leaves holds nothing any more that is needed."""

    node: str


@dataclass(frozen=True, slots=True)
class Changed:
    """Room or coverage may have grown: whoever waits for a route should ask again."""


Action = Admit | Refuse | Break | Tell | LetGo | Changed
