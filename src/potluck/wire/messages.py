"""Every message between a coordinator and its nodes, as one closed union of typed values.

A frame is a header, which is one of these, and for some of them a payload of raw bytes (see `codec`).
Unknown kinds and unknown fields are refused. `make docs` makes docs/protocol.md of these docstrings.

Many messages have these fields:

session, route, step: the session, the version of its route, and the number of the step. A late answer differs in one of
them.
rows: the number of positions, or of hidden rows. position: the first position, counted from 0.
queue_s, compute_s: the seconds that the step waited for its turn on the node, and the seconds that it ran.
reason: a sentence for people.
left: the bytes of the same state that come after this part.
"""

from __future__ import annotations

from potluck.types import (
    Attention,
    Capacity,
    Coordinator,
    EngineKind,
    GuesserOffer,
    PauseReason,
    Prospect,
    Quantize,
    RowFormat,
    Span,
    Speed,
)
from potluck.wire.fleet import Fleet, Redirect
from potluck.wire.message import Message

PROTOCOL_VERSION = 7

MOST_STATE = 256 << 20
"""The most bytes of one session's keys and values that may be moved."""


# From a node


class Greeting(Message, frozen=True, tag="greeting"):
    """The first frame.

    protocol: the version that the node speaks. nonce: 32 random bytes, which the coordinator signs.
    """

    protocol: int
    nonce: bytes


class Hello(Message, frozen=True, tag="hello"):
    """The node's answer to the challenge.

    name: the node's name for people. software: its version of Potluck.
    model: the digest of a model that it already has on disk, or empty.
    span: the layers that it wants to serve; with None the coordinator chooses layers that fit.
    memory, threads: the most that the node may use; memory in bytes.
    serves: the name of the model that its owner chose among those of the coordinator; empty leaves that to it.
    holds: the digest of the model of which it still holds `span`, or empty.
    gpu_memory: the bytes of graphics cards that it may use besides, unless they use the machine's own memory.
    guesser: the small model with which the node guesses how answers go on. Such a node serves no layers. Instead of a
    welcome it gets the vocabulary of the model that is served, and if that is its own, it begins to guess.
    movable: whether the coordinator may give it other layers later, because its owner did not choose them.
    bytes_per_s: the bytes that its cores read from memory in a second. This is a first estimate of its speed, until a
    span is loaded and measured.
    url: the coordinator's URL as the node was given it. invite: the invite that admits it, if one is needed.
    key: the node's public key. proof: its signature. any: whether it also serves models that are only offered.
    joins: False if its owner only asks what it would be given. It is then welcomed, but not admitted.
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
    gpu_memory: int = 0
    guesser: GuesserOffer | None = None
    serves: str = ""
    holds: str = ""
    any: bool = False


class Loading(Message, frozen=True, tag="loading"):
    """The node's progress while it downloads and loads.

    fraction: a number from 0 to 1.
    """

    fraction: float


class Ready(Message, frozen=True, tag="ready"):
    """The node has loaded its span.

    capacity, speed: how much the engine can hold, and how fast it is.
    twin: a hash of the engine's output on a fixed probe. Equal twins compute equal bits. It is empty if the bits depend
    on more.
    layout: the layout of the weights in memory: optimised for this CPU, or plain.
    shares: the URL at which other nodes may download its tensors; empty if they may not.
    """

    capacity: Capacity
    speed: Speed
    twin: str
    layout: str
    shares: str = ""


class Hidden(Message, frozen=True, tag="hidden"):
    """The output rows of a stage. The payload is `rows` hidden rows in the swarm's format."""

    session: int
    route: int
    step: int
    rows: int
    queue_s: float
    compute_s: float


class Scores(Message, frozen=True, tag="scores"):
    """The last stage's output: candidates for each wanted row.

    The payload has, row after row, the row's log-sum-exp (float32), ids (int32) and log-probabilities (float32).
    counts: the number of candidates of each row.
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
    """The node uses another number of threads, because it follows the cores that other programs leave free.

    threads: the number of threads from now on.
    """

    threads: int


class Kept(Message, frozen=True, tag="kept"):
    """A step with `keep` has ended, and the node holds its keys and values."""

    session: int
    route: int
    step: int
    queue_s: float
    compute_s: float


class Pong(Message, frozen=True, tag="pong"):
    """The answer to a Ping, with its payload.

    number: the Ping's number. sessions: the number of sessions that the engine holds.
    """

    number: int
    sessions: int


class Exported(Message, frozen=True, tag="exported"):
    """A part of what Export asked for, as the payload.

    If the node gives nothing, there is one empty part.
    """

    session: int
    left: int


class Imported(Message, frozen=True, tag="imported"):
    """The end of an import.

    positions: the number of positions of the session that the node holds now.
    """

    session: int
    positions: int


class Leaving(Message, frozen=True, tag="leaving"):
    """The owner wants the node to go: hand over its sessions, and then send Released."""


class Pause(Message, frozen=True, tag="pause"):
    """Hand over the sessions, and open none here until Resume. Steps that are still here a moment later fail.

    reason: one of a closed set.
    """

    reason: PauseReason


class Resume(Message, frozen=True, tag="resume"):
    """The node computes again. Its layers are still loaded."""


class GuesserSays(Message, frozen=True, tag="guesser_says"):
    """The small model of a node that guesses says something.

    The payload is one of `FromGuesser` in wire/guessing.py, as msgpack.
    """


# From the coordinator


class Challenge(Message, frozen=True, tag="challenge"):
    """The coordinator's answer to the greeting.

    nonce: 32 random bytes, which the node signs. key: the coordinator's public key. proof: its signature.
    """

    nonce: bytes
    key: bytes
    proof: bytes


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """The node is admitted, and serves these layers from now on.

    A node that already serves gets another welcome when it should serve other layers.
    node: the coordinator's name for the node. model: the digest of the manifest. span: the node's layers.
    engine, quantize, attention, rows: how all nodes of the swarm compute, keep and send.
    context: the most positions of a session.
    ticket: what the node shows when it downloads weights over HTTP. It is valid as long as this link lasts.
    peers: the URLs of nodes that hold some of these layers. peer_token: what nodes show to download tensors from each
    other.
    prospect: what the node adds with this span.
    fleet: all other coordinators where the node may serve, in the order in which it should try them.
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
    fleet: tuple[Coordinator, ...] = ()


class Refusal(Message, frozen=True, tag="refusal"):
    """The node is not admitted, or no longer. The socket closes after this message."""

    reason: str


class Step(Message, frozen=True, tag="step"):
    """Run positions `position` … `position + rows - 1` of a session up to the layer `last`.

    position: if it is less than the number of positions that the node holds of the session, the node first forgets
    those from there on. Earlier steps of the session that begin at this position or behind it, and still wait, are left
    out and not answered.
    last: the layer after which the rows leave. It is less than the node's last layer if the route continues elsewhere.
    stages: the number of stages of the session's route. This many batches can be under way at once.

    The payload holds int32 token ids for a span that starts at layer 0, and hidden rows otherwise.
    top: the number of candidates of each wanted row, at most 256.
    asks: one entry for each of the last `len(asks)` rows, whose candidates are wanted: ids that are asked for by name,
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
    """Forget a session and all of its steps that still wait."""

    session: int


class Recall(Message, frozen=True, tag="recall"):
    """Send the output of positions `position` … `position + rows - 1` once more, from the journal.

    The answer is Hidden, or Failed if the journal does not hold all of them.
    """

    session: int
    route: int
    step: int
    position: int
    rows: int


class Export(Message, frozen=True, tag="export"):
    """Send the session's keys and values, as the engine exports them, so that they can move to another node.

    most: if they are more bytes than this, nothing is sent, because computing them again takes less time.
    """

    session: int
    most: int


class Import(Message, frozen=True, tag="import"):
    """A part of what another node has exported, to be held here, in the form of Exported. The answer to the last part
    is Imported.
    """

    session: int
    left: int


class Ping(Message, frozen=True, tag="ping"):
    """Answer at once with a Pong of the same number and payload. This shows that the node lives, and how fast the
    connection is.

    number: the number of this Ping.
    """

    number: int


class Notice(Message, frozen=True, tag="notice"):
    """A sentence for the owner, for example why the node is passed over, or that it is used again.

    text: the sentence.
    """

    text: str


class PeerToken(Message, frozen=True, tag="peer_token"):
    """A new token in place of the welcome's `peer_token`, because a node that knows the old one was cut off.

    token: the new token.
    """

    token: str


class Vocabulary(Message, frozen=True, tag="vocabulary"):
    """The vocabulary of the model that is served, for a node that guesses.

    model: the model's name. context: the most positions of a session. The payload is a msgpack array with the bytes for
    which each token id stands. fleet: as in Welcome, if the node joins.
    """

    model: str
    context: int
    fleet: tuple[Coordinator, ...] = ()


class GuesserHears(Message, frozen=True, tag="guesser_hears"):
    """The small model of a node that guesses is told something.

    The payload is one of `ToGuesser` in wire/guessing.py, as msgpack.
    """


class Released(Message, frozen=True, tag="released"):
    """The node that is leaving holds nothing that is needed, and may go."""


_Answers = Hidden | Scores | Failed | Kept | Pong | Exported | Imported
FromNode = Greeting | Hello | Loading | Ready | _Answers | Threads | Leaving | Pause | Resume | GuesserSays

_Orders = Step | Close | Recall | Export | Import | Ping
_Told = Notice | PeerToken | Fleet | Vocabulary | GuesserHears
FromCoordinator = Challenge | Welcome | Refusal | _Orders | _Told | Redirect | Released

AnyMessage = FromNode | FromCoordinator
