"""The cost of spans and stages: bytes of memory, seconds of time. Pure."""

from __future__ import annotations

from msgspec import Struct

from potluck.types import Span

RESERVE_BYTES = 256 << 20
"""The bytes of a node's memory for the program itself and the engine's work buffers."""

HOP_S = 0.001
"""The seconds of one relay over a good network. Of two equal routes, the one with fewer stages wins."""


class Footprint(Struct, frozen=True):
    """The sizes of a model's parts in bytes: the weights of each layer and of the two ends.

    active: the part of each layer's weights that is read for one token; empty if all are.
    cache: what one session of full length keeps in each layer; empty if that does not count.
    staged: the bytes that loading takes beside the weights. They are free again before there is a session.
    row: the bytes that one token puts on the link of a stage, in and out together; 0 if links do not count.
    """

    layers: tuple[int, ...]
    entry: int
    head: int
    active: tuple[int, ...] = ()
    cache: tuple[int, ...] = ()
    staged: int = 0
    row: int = 0

    def of(self, span: Span) -> int:
        """The memory that a node needs to serve `span`."""
        entry = self.entry if span.first == 0 else 0
        weights = entry + sum(self.layers[span.first : span.last + 1]) + self._head(span)
        return RESERVE_BYTES + weights + max(sum(self.cache[span.first : span.last + 1]), self.staged)

    def work(self, span: Span) -> int:
        """The weights that are read for one token. The embedding does not count, because one row of it is read."""
        return sum((self.active or self.layers)[span.first : span.last + 1]) + self._head(span)

    def _head(self, span: Span) -> int:
        return self.head if span.last == len(self.layers) - 1 else 0
