"""Every message between a coordinator and its nodes: one closed union of typed values.

A frame is a header, one of these, and for some a payload of raw bytes beside it (see `codec`).
Unknown kinds and unknown fields are refused. `make docs` makes docs/protocol.md of these docstrings.

What many messages have:

session, route, step: the session, the version of its route, and the number of the step. Late answers differ in one.
rows: how many positions, or hidden rows, it is about.
position: the first of them, counted from 0.
queue_s, compute_s: seconds that the step waited for its turn on the node, and then ran.
reason: a sentence for people.
left: bytes of the same state that come after this part.
"""

from __future__ import annotations

from msgspec import Struct

from potluck.types import Attention, Capacity, EngineKind, PauseReason, Prospect, Quantize, RowFormat, Span, Speed

PROTOCOL_VERSION = 3

MOST_STATE = 256 << 20
"""Bytes of one session's keys and values that may be moved."""


class Message(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    pass


# From a node


class Greeting(Message, frozen=True, tag="greeting"):
    """The first frame.

    protocol: the version that the node speaks. nonce: 32 random bytes, which the coordinator signs.
    """

    protocol: int
    nonce: bytes


class Hello(Message, frozen=True, tag="hello"):
    """The answer to the challenge.

    name: what people call the node. software: its version of Potluck.
    model: the digest of a model that it has on disk already, or empty.
    span: the layers it wants to serve; None: the coordinator chooses what fits `memory` (bytes).
    memory, threads: the most that it may use.
    movable: the coordinator may give it other layers later, because its owner did not choose them.
    bytes_per_s: that its cores read from memory: a first guess of its speed, until a span is loaded and measured.
    url: of the coordinator, as this node was given it. invite: what admits it, where that takes one.
    key: the node's public key. proof: its signature.
    joins: False where its owner only asks what it would be given: it is welcomed, and not admitted.
    """

    name: str
    software: str
    model: str
    span: Span | None
    memory: int
    threads: int
    movable: bool = False
    bytes_per_s: float = 0.0
    url: str = ""
    invite: str = ""
    key: bytes = b""
    proof: bytes = b""
    joins: bool = True


class Loading(Message, frozen=True, tag="loading"):
    """Progress while fetching and loading.

    fraction: 0 … 1.
    """

    fraction: float


class Ready(Message, frozen=True, tag="ready"):
    """The span is loaded.

    capacity, speed: what the engine can hold, and how fast it is.
    twin: a hash of the engine's output on a fixed probe: equal twins compute equal bits. Empty: they depend on more.
    layout: of the weights in memory: optimised for this CPU, or plain.
    shares: the URL at which other nodes may fetch its tensors; empty if they may not.
    """

    capacity: Capacity
    speed: Speed
    twin: str
    layout: str
    shares: str = ""


class Hidden(Message, frozen=True, tag="hidden"):
    """A stage's output rows; the payload is `rows` hidden rows in the swarm's format."""

    session: int
    route: int
    step: int
    rows: int
    queue_s: float
    compute_s: float


class Scores(Message, frozen=True, tag="scores"):
    """The last stage's output: candidates of each wanted row.

    The payload, row after row: the row's log-sum-exp (float32), ids (int32), log-probabilities (float32).
    counts: how many candidates each row has.
    """

    session: int
    route: int
    step: int
    counts: tuple[int, ...]
    queue_s: float
    compute_s: float


class Failed(Message, frozen=True, tag="failed"):
    """The node could not run a step."""

    session: int
    route: int
    step: int
    reason: str


class Threads(Message, frozen=True, tag="threads"):
    """The node follows the cores that others leave free.

    threads: so many it computes with from now on.
    """

    threads: int


class Kept(Message, frozen=True, tag="kept"):
    """The end of a step with `keep`: the session's keys and values are here."""

    session: int
    route: int
    step: int
    queue_s: float
    compute_s: float


class Pong(Message, frozen=True, tag="pong"):
    """The answer to a Ping, with its payload.

    number: the Ping's. sessions: how many the engine holds.
    """

    number: int
    sessions: int


class Exported(Message, frozen=True, tag="exported"):
    """A part of what Export asked for: the payload.

    Where the node gives nothing, there is one empty part.
    """

    session: int
    left: int


class Imported(Message, frozen=True, tag="imported"):
    """The end of an import.

    positions: so many of the session are here now.
    """

    session: int
    positions: int


class Leaving(Message, frozen=True, tag="leaving"):
    """The owner wants to go: hand over the sessions, then say Released."""


class Pause(Message, frozen=True, tag="pause"):
    """Hand over the sessions, and open none here until Resume. In a moment, steps that are still here fail.

    reason: one of a closed set.
    """

    reason: PauseReason


class Resume(Message, frozen=True, tag="resume"):
    """The node computes again; its layers are still loaded."""


# From the coordinator


class Challenge(Message, frozen=True, tag="challenge"):
    """The answer to the greeting.

    nonce: 32 random bytes, which the node signs. key: the coordinator's public key. proof: its signature.
    """

    nonce: bytes
    key: bytes
    proof: bytes


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """The node is admitted, and serves these layers from now on.

    One that serves already gets another welcome when it shall serve other layers.
    node: how the coordinator calls it. model: the digest of the manifest. span: its layers.
    engine, quantize, attention, rows: how all nodes of the swarm compute, keep and send.
    context: positions that a session may have.
    ticket: what to show when it fetches weights over HTTP, as long as this link lasts.
    peers: URLs of nodes that hold some of these layers. peer_token: with it nodes fetch tensors from each other.
    prospect: what the node adds with this span.
    """

    node: str
    model: str
    span: Span
    engine: EngineKind
    quantize: Quantize
    attention: Attention
    rows: RowFormat
    context: int
    ticket: str = ""
    peers: tuple[str, ...] = ()
    peer_token: str = ""
    prospect: Prospect | None = None


class Refusal(Message, frozen=True, tag="refusal"):
    """The node is not admitted, or no longer; the socket closes after this."""

    reason: str


class Step(Message, frozen=True, tag="step"):
    """Run positions `position` … `position + rows - 1` of a session up to the layer `last`.

    position: where it is less than what the node holds of the session, what lies behind is forgotten first.
    last: the layer after which the rows leave; less than the node's last where the route goes on elsewhere.
    stages: of the session's route; that many batches can be under way at once.

    The payload holds int32 token ids for a span that starts at layer 0, hidden rows otherwise.
    top: how many candidates of each wanted row; 256 at most.
    asks: one entry for each of the last `len(asks)` rows, whose candidates are wanted: ids asked for by name,
    besides the `top` most likely ones. Only a stage that ends the model answers them.
    keep: only the keys and values are wanted, in place of those that a lost node held. The answer is Kept.
    """

    session: int
    route: int
    step: int
    position: int
    rows: int
    last: int
    top: int
    asks: tuple[tuple[int, ...], ...]
    stages: int
    keep: bool = False


class Close(Message, frozen=True, tag="close"):
    """Forget a session and every step of it that still waits."""

    session: int


class Recall(Message, frozen=True, tag="recall"):
    """Send the output of positions `position` … `position + rows - 1` once more, from the journal.

    The answer is Hidden, or Failed where the journal does not hold them all.
    """

    session: int
    route: int
    step: int
    position: int
    rows: int


class Export(Message, frozen=True, tag="export"):
    """Send the session's keys and values, as the engine exports them: they move to another node.

    most: nothing is sent if they are more bytes: then they are sooner computed there.
    """

    session: int
    most: int


class Import(Message, frozen=True, tag="import"):
    """A part of what another node has exported, to be held here: as Exported. The answer to the last is Imported."""

    session: int
    left: int


class Ping(Message, frozen=True, tag="ping"):
    """Answer at once with a Pong of the same number and payload: it tells that you live, and what the line is like.

    number: of this Ping.
    """

    number: int


class Notice(Message, frozen=True, tag="notice"):
    """What the owner should know: why the node is passed over, or that it is used again.

    text: a sentence.
    """

    text: str


class PeerToken(Message, frozen=True, tag="peer_token"):
    """In place of the welcome's `peer_token` from now on, because one who knows that was cut.

    token: the new one.
    """

    token: str


class Released(Message, frozen=True, tag="released"):
    """The node that is leaving holds nothing that is needed: it may go."""


FromNode = (
    Greeting
    | Hello
    | Loading
    | Ready
    | Hidden
    | Scores
    | Failed
    | Threads
    | Kept
    | Pong
    | Exported
    | Imported
    | Leaving
    | Pause
    | Resume
)
FromCoordinator = (
    Challenge | Welcome | Refusal | Step | Close | Recall | Export | Import | Ping | Notice | PeerToken | Released
)
AnyMessage = FromNode | FromCoordinator
