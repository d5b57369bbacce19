"""What every node of a swarm agrees on."""

from __future__ import annotations

from dataclasses import dataclass

from potluck.types import Attention, EngineKind, Prospect, Quantize, RowFormat, Span
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

    def welcome(
        self, node: str, span: Span, ticket: str, peers: tuple[str, ...], peer_token: str, prospect: Prospect
    ) -> Welcome:
        return Welcome(
            node,
            self.digest,
            span,
            self.engine,
            self.quantize,
            self.attention,
            self.rows,
            self.context,
            ticket,
            peers,
            peer_token,
            prospect,
        )
