"""What spans and stages cost: bytes of memory, seconds of time. Pure."""

from __future__ import annotations

from msgspec import Struct

from potluck.types import Span

RESERVE_BYTES = 256 << 20
"""Of a node's memory for the program itself and the engine's work buffers."""

HOP_S = 0.001
"""One relay over a good network, so that of two equal routes the one with fewer stages wins."""


class Footprint(Struct, frozen=True):
    """What a model's parts weigh, in bytes: the weights of each layer and of the two ends.

    cache: KV cache that one session of full length needs in each layer.
    row: what one token puts on the link of a stage, in and out together; 0 where links do not count.
    """

    layers: tuple[int, ...]
    entry: int
    head: int
    cache: int = 0
    row: int = 0

    def of(self, span: Span) -> int:
        """Memory that a node needs to serve `span`."""
        entry = self.entry if span.first == 0 else 0
        return RESERVE_BYTES + entry + self.work(span) + self.cache * len(span)

    def work(self, span: Span) -> int:
        """Weights that are read for one token: of the embedding that is one row, so it does not count."""
        head = self.head if span.last == len(self.layers) - 1 else 0
        return sum(self.layers[span.first : span.last + 1]) + head
