"""The cost of spans and stages: bytes of memory, seconds of time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np
from msgspec import Struct

from potluck.planning.offload import Division, Numbers, Parts
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
    experts: the part of each layer's weights that are experts; empty if there are none.
    offloads: whether the engine can divide a span between a graphics card and other memory.
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
    experts: tuple[int, ...] = ()
    offloads: bool = False

    @property
    def cuts(self) -> Cuts:
        """The places where the model may be cut."""
        return self.cut or Cuts.anywhere(len(self.layers))

    def of(self, span: Span) -> int:
        """The memory that a node without a graphics card needs to serve `span`."""
        return self.beside(0, span)

    def beside(self, card: int, span: Span) -> int:
        """The memory that a node needs to serve `span` besides its graphics card of so many bytes."""
        [memory] = self.all_beside(card, np.array([span.first]), np.array([span.last]))
        return int(memory)

    def on_card(self, card: int, span: Span) -> int:
        """The bytes that `span` takes of a graphics card of so many bytes, without work buffers."""
        return int(self._divide(card, np.array([span.first]), np.array([span.last])).card[0])

    def all_beside(self, card: int, first: Numbers, last: Numbers) -> Numbers:
        """`beside` for the spans with these first and last layers."""
        is_first, is_last = first == 0, last == len(self.layers) - 1
        ends = self.entry * is_first + self.head * is_last
        ends += self.stub * (is_first != is_last) + self.middle * ~(is_first | is_last)
        division = self._divide(card, first, last)
        kept = np.maximum(division.cache, self.staged)
        return np.asarray(RESERVE_BYTES + division.weights + ends - division.head + kept)

    def _divide(self, card: int, first: Numbers, last: Numbers) -> Division:
        head = self.head * (last == len(self.layers) - 1)
        return self._parts.divide(first, last + 1, head, card if self.offloads else 0)

    @cached_property
    def _parts(self) -> Parts:
        none = (0,) * len(self.layers)
        experts = self.experts or none
        dense = [whole - part for whole, part in zip(self.layers, experts, strict=True)]
        return Parts(dense, experts, self.cache or none)

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
