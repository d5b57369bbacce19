"""What every node of a swarm agrees on."""

from __future__ import annotations

from dataclasses import dataclass

from potluck.types import Attention, EngineKind, Quantize, RowFormat, Span
from potluck.wire.messages import Welcome


@dataclass(frozen=True)
class Terms:
    """As in `Welcome`. digest: of the model. context: positions a session."""

    digest: str
    engine: EngineKind
    quantize: Quantize
    attention: Attention
    rows: RowFormat
    context: int

    def welcome(self, node: str, span: Span, ticket: str, peers: tuple[str, ...] = (), peer_token: str = "") -> Welcome:
        engine, quantize, attention, rows = self.engine, self.quantize, self.attention, self.rows
        return Welcome(
            node, self.digest, span, engine, quantize, attention, rows, self.context, ticket, peers, peer_token
        )
