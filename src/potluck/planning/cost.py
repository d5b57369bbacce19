"""The cost of spans and stages: bytes of memory, seconds of time. Pure."""

from __future__ import annotations

from msgspec import Struct

from potluck.types import Cuts, Span

RESERVE_BYTES = 256 << 20
"""The bytes of a node's memory for the program itself and the engine's work buffers."""

HOP_S = 0.001
"""The seconds of one relay over a good network. Of two equal routes, the one with fewer stages wins."""


def in_mib(needed: int) -> int:
    """Bytes that are needed as MiB for people, rounded up, so that whoever offers as much offers enough."""
    return -(-needed >> 20)


class Footprint(Struct, frozen=True):
    """The sizes of a model's parts in bytes: the weights of each layer and of the two ends.

    cache: the KV cache that one session of full length needs in each layer.
    row: the bytes that one token puts on the link of a stage, in and out together; 0 if links do not count.
    cut: where the model may be cut; None stands for anywhere.
    """

    layers: tuple[int, ...]
    entry: int
    head: int
    cache: int = 0
    row: int = 0
    cut: Cuts | None = None

    @property
    def cuts(self) -> Cuts:
        """The places where the model may be cut."""
        return self.cut or Cuts.anywhere(len(self.layers))

    def of(self, span: Span) -> int:
        """The memory that a node needs to serve `span`."""
        entry = self.entry if span.first == 0 else 0
        return RESERVE_BYTES + entry + self.work(span) + self.cache * len(span)

    def work(self, span: Span) -> int:
        """The weights that are read for one token. The embedding does not count, because one row of it is read."""
        head = self.head if span.last == len(self.layers) - 1 else 0
        return sum(self.layers[span.first : span.last + 1]) + head
