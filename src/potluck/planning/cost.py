"""The cost of spans and stages: bytes of memory, seconds of time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

from msgspec import Struct

from potluck.types import ANY_NUMBER, Cuts, Span

RESERVE_BYTES = 256 << 20
"""The bytes of a node's memory for the program itself and the engine's work buffers.

The program takes some 120 MiB. The largest buffers are those of a last layer with a large vocabulary: 100 MiB for 64
rows of 201,088 logits. Experts need less than 25 MiB.
"""

HOP_S = 0.001
"""The seconds of one relay over a good network. Of two equal routes, the one with fewer stages wins."""


EVEN: Sequence[int] = range(ANY_NUMBER)
"""`Footprint.sums` of a model whose layers are all as much work, and whose head is none."""


def in_mib(needed: int) -> int:
    """Bytes that are needed as MiB for people, rounded up, so that whoever offers as much offers enough."""
    return -(-needed >> 20)


class Footprint(Struct, frozen=True, dict=True):
    """The sizes of a model's parts in bytes: the weights of each layer and of the two ends.

    active: the work of one token in each layer and, last, in the head; empty if it is as much as their weights.
    cache: what one session of full length keeps in each layer; empty if that does not count.
    staged: the bytes that loading takes beside the weights. They are free again before there is a session.
    stub, middle: what a span at only one end, and at neither end, has besides.
    row: the bytes that one token puts on the link of a stage, in and out together; 0 if links do not count.
    cut: where the model may be cut; None stands for anywhere.
    """

    layers: tuple[int, ...]
    entry: int
    head: int
    active: tuple[int, ...] = ()
    cache: tuple[int, ...] = ()
    staged: int = 0
    stub: int = 0
    middle: int = 0
    row: int = 0
    cut: Cuts | None = None

    @property
    def cuts(self) -> Cuts:
        """The places where the model may be cut."""
        return self.cut or Cuts.anywhere(len(self.layers))

    def of(self, span: Span) -> int:
        """The memory that a node needs to serve `span`."""
        first, last = span.first == 0, span.last == len(self.layers) - 1
        ends = first * self.entry + last * self.head + (first != last) * self.stub
        weights = sum(self.layers[span.first : span.last + 1]) + (ends if first or last else self.middle)
        return RESERVE_BYTES + weights + max(sum(self.cache[span.first : span.last + 1]), self.staged)

    @property
    def costs(self) -> tuple[int, ...]:
        """The work of one token in each layer and, last, in the head. The embedding does not count, because only one
        row of it is read.
        """
        return self.active or (*self.layers, self.head)

    @cached_property
    def sums(self) -> tuple[int, ...]:
        """The work of one token in the layers before each place; after the last one, with the head."""
        *layers, head = self.costs
        *sums, whole = accumulate(layers, initial=0)
        return (*sums, whole + head)

    def work(self, span: Span) -> int:
        """The work of one token in a span, to which its time is in proportion, in bytes of weights."""
        return self.sums[span.last + 1] - self.sums[span.first]

    def share(self, parts: int) -> list[Span]:
        """Spans that take about the same time. Raises SpanError when the model cannot be cut into so many."""
        return self.cuts.split(parts, self.costs)
