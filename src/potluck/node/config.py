"""The choices of a node's owner, and how the node passes them on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import potluck
from potluck.node.permit import Hours
from potluck.node.room import Room
from potluck.types import Span
from potluck.wire.identity import Identity
from potluck.wire.messages import Hello, Welcome


@dataclass(frozen=True)
class NodeConfig:
    """The choices of a node's owner.

    url: the coordinator's http(s) URL. model: a copy of the model's file on this machine. room: the memory.
    serves: the name of the model that it is to serve, or empty: the coordinator chooses.
    invite: the invite from the coordinator's owner, `SECRET.FINGERPRINT`, or empty.
    upload: the most bytes a second that it sends; None means no limit.
    hours: when it may work; None means always. idle_only: it works only while nobody else uses the machine.
    on_battery: it works on battery, too. guesser: the name of the small model with which it guesses instead of serving
    layers, or empty. any: it also serves models that are loaded only when somebody asks for them.
    """

    url: str
    name: str
    span: Span | None
    model: Path | None
    room: Room
    threads: int
    identity: Identity
    invite: str = ""
    upload: float | None = None
    hours: Hours | None = None
    idle_only: bool = False
    on_battery: bool = False
    guesser: str = ""
    serves: str = ""
    any: bool = False

    def hello(self, digest: str, bytes_per_s: float, held: Welcome | None = None, joins: bool = True) -> Hello:
        """The node's hello. digest: that of the model on this machine, or empty. held: what it has loaded."""
        return Hello(
            self.name,
            potluck.__version__,
            digest,
            span=held.span if held is not None else self.span,
            serves=self.serves,
            holds=held.model if held is not None else "",
            any=self.any,
            movable=self.span is None,
            memory=self.room.memory,
            gpu_memory=0 if self.room.shares else self.room.card,
            threads=self.threads,
            bytes_per_s=bytes_per_s,
            joins=joins,
        )


def node_url(url: str) -> str:
    """The web-socket that nodes dial, derived from the coordinator's URL."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}[parts.scheme]
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/node"
