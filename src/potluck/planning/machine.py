"""Machines as planning sees them. Pure."""

from __future__ import annotations

from math import inf

from msgspec import Struct

from potluck.planning.cost import Footprint
from potluck.types import Span


class Machine(Struct, frozen=True):
    """What one can give: `memory` in bytes, and `bytes_per_s` of weights that it reads in decoding, above 0.

    round_trip_s, link_bytes_per_s: of its link to the coordinator; a bandwidth of inf is no limit.
    """

    name: str
    memory: int
    bytes_per_s: float
    round_trip_s: float = 0.0
    link_bytes_per_s: float = inf

    def seconds(self, footprint: Footprint, span: Span) -> float:
        """Of one token of one stream through `span`, on the way there and back too."""
        return self.round_trip_s + footprint.work(span) / self.bytes_per_s

    def rate(self, footprint: Footprint, span: Span) -> float:
        """Tokens/s of many streams together that it carries through `span`."""
        return min(self.bytes_per_s / footprint.work(span), self.link_rate(footprint))

    def link_rate(self, footprint: Footprint) -> float:
        """Tokens/s that its link carries, whatever it serves."""
        return self.link_bytes_per_s / footprint.row if footprint.row else inf


class Placed(Struct, frozen=True):
    """A machine and the span that it serves."""

    machine: Machine
    span: Span
