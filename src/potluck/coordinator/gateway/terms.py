"""The terms that every node of a swarm agrees on."""

from __future__ import annotations

from dataclasses import dataclass

from potluck.types import Attention, Coordinator, EngineKind, Prospect, Quantize, RowFormat, Span
from potluck.wire.messages import Welcome


@dataclass(frozen=True)
class Terms:
    """The terms, as in `Welcome`. digest: of the model. context: positions of a session."""

    digest: str
    engine: EngineKind
    quantize: Quantize
    attention: Attention
    rows: RowFormat
    context: int

    def welcome(
        self,
        node: str,
        span: Span,
        ticket: str,
        peers: tuple[str, ...],
        peer_token: str,
        prospect: Prospect,
        fleet: tuple[Coordinator, ...],
    ) -> Welcome:
        return Welcome(
            node=node,
            model=self.digest,
            span=span,
            engine=self.engine,
            quantize=self.quantize,
            attention=self.attention,
            rows=self.rows,
            context=self.context,
            ticket=ticket,
            peers=peers,
            peer_token=peer_token,
            prospect=prospect,
            fleet=fleet,
        )
