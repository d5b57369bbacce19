"""Machines as planning sees them. Pure."""

from __future__ import annotations

from math import inf

from msgspec import Struct

from potluck.planning.cost import Footprint
from potluck.types import Span


class Machine(Struct, frozen=True):
    """A machine: `memory` in bytes, and `bytes_per_s` of weights that it reads in decoding, above 0.

    card: the bytes of its graphics cards, which come to its memory.
    round_trip_s, link_bytes_per_s: those of its link to the coordinator; a bandwidth of inf means no limit.
    """

    name: str
    memory: int
    bytes_per_s: float
    round_trip_s: float = 0.0
    link_bytes_per_s: float = inf
    card: int = 0

    def holds(self, footprint: Footprint, span: Span) -> bool:
        """Whether `span` fits into the machine's memory and its card."""
        return footprint.beside(self.card, span) <= self.memory

    def seconds(self, footprint: Footprint, span: Span) -> float:
        """The seconds of one token of one stream through `span`, including the way there and back."""
        return self.round_trip_s + footprint.work(span) / self.bytes_per_s

    def rate(self, footprint: Footprint, span: Span) -> float:
        """The tokens/s of many streams together that the machine carries through `span`."""
        return min(self.bytes_per_s / footprint.work(span), self.link_rate(footprint))

    def link_rate(self, footprint: Footprint) -> float:
        """The tokens/s that the machine's link carries, whatever the machine serves."""
        return self.link_bytes_per_s / footprint.row if footprint.row else inf


class Placed(Struct, frozen=True):
    """A machine and the span that it serves."""

    machine: Machine
    span: Span
