"""What a node's owner has chosen, and how the node says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import potluck
from potluck.node.permit import Hours
from potluck.types import Span
from potluck.wire.identity import Identity
from potluck.wire.messages import Hello


@dataclass(frozen=True)
class NodeConfig:
    """url: of the coordinator, http(s). model: a copy of the model's file on this machine. memory: bytes.

    invite: what the coordinator's owner gave out, `SECRET.FINGERPRINT`, or empty.
    upload: bytes a second that it sends at most; None: no limit.
    hours: when it may work; None: always. idle_only: only while nobody else uses the machine.
    """

    url: str
    name: str
    span: Span | None
    model: Path | None
    memory: int
    threads: int
    identity: Identity
    invite: str = ""
    upload: float | None = None
    hours: Hours | None = None
    idle_only: bool = False

    def hello(self, digest: str, bytes_per_s: float, held: Span | None = None, joins: bool = True) -> Hello:
        """digest: of the model that is on this machine, or empty. held: the span that is loaded already."""
        return Hello(
            self.name,
            potluck.__version__,
            digest,
            span=held or self.span,
            movable=self.span is None,
            memory=self.memory,
            threads=self.threads,
            bytes_per_s=bytes_per_s,
            joins=joins,
        )


def node_url(url: str) -> str:
    """The web-socket that nodes dial, from the coordinator's URL."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}[parts.scheme]
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/node"
