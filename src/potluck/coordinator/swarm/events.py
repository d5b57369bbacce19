"""The events that happen to the swarm, and the actions that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

from potluck.coordinator.members.door import STRANGER, Entry
from potluck.coordinator.swarm.linkspeed import UNKNOWN, LinkSpeed
from potluck.types import Coordinator, PauseReason, Span
from potluck.wire.messages import Hello, Ready


@dataclass(frozen=True, slots=True)
class Joined:
    """A node has proven the key in its hello. entry: what the door knows about it. speed: that of its link."""

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
    """The node does not answer in time. It is passed over until it is `Revived`."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Revived:
    """A stalled node answers again."""

    node: str


@dataclass(frozen=True, slots=True)
class Leaves:
    """The node wants to go once others have taken over its sessions."""

    node: str


@dataclass(frozen=True, slots=True)
class Lends:
    """Another model needs the node, or another coordinator. It is let go once its sessions are with others, unless it
    is needed here again.

    given: whether it goes even if it is the only one at some layer, because nobody uses this model now.
    there: the other coordinator.
    """

    node: str
    given: bool = False
    there: Coordinator | None = None


@dataclass(frozen=True, slots=True)
class Keeps:
    """No other model needs the node any more, which was to be let go."""

    node: str


@dataclass(frozen=True, slots=True)
class Pauses:
    """The node's owner needs the machine. Others are to take over its sessions until it `Resumes`."""

    node: str
    reason: PauseReason


@dataclass(frozen=True, slots=True)
class Resumes:
    node: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Audits have caught the node, whether it is here or gone. Nothing that it computes is used, and its key stays
    outside.
    """

    node: str
    key: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Rebalance:
    """It is time to see whether a node would help more with other layers. This event comes at regular intervals."""


Event = (
    Joined
    | Progressed
    | BecameReady
    | Resized
    | Left
    | Stalled
    | Revived
    | Leaves
    | Lends
    | Keeps
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
    """A session has lost a stage of its route. It keeps its room on the others until it is mended or released."""

    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class Tell:
    """A sentence for the node's owner."""

    node: str
    text: str


@dataclass(frozen=True, slots=True)
class LetGo:
    """The node that leaves no longer holds anything that is needed."""

    node: str


@dataclass(frozen=True, slots=True)
class Changed:
    """Room or coverage may have grown, so whoever waits for a route should ask again."""


Action = Admit | Refuse | Break | Tell | LetGo | Changed
