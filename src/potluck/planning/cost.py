"""What spans and stages cost: bytes of memory, seconds of time. Pure."""

from __future__ import annotations

from msgspec import Struct

from potluck.types import Span, Speed

RESERVE_BYTES = 256 << 20
"""Of a node's memory for the program itself and the engine's work buffers."""

HOP_S = 0.001
"""One relay over a good network, so that of two equal routes the one with fewer stages wins."""


class Footprint(Struct, frozen=True):
    """What a model's parts weigh, in bytes: each layer with the KV cache it needs, and the two ends."""

    layers: tuple[int, ...]
    entry: int
    head: int

    def of(self, span: Span) -> int:
        """Memory that a node needs to serve `span`."""
        ends = (self.entry if span.first == 0 else 0) + (self.head if span.last == len(self.layers) - 1 else 0)
        return RESERVE_BYTES + sum(self.layers[span.first : span.last + 1]) + ends


def stage_seconds(speed: Speed, served: Span, part: Span, sessions: int) -> float:
    """Expected seconds of one decode step on a node that serves `served` and already holds so many sessions."""
    return HOP_S + speed.decode_s * len(part) / len(served) * (1 + sessions)
