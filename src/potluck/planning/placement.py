"""Which layers a newcomer should serve. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from potluck.planning.cost import Footprint
from potluck.types import Span


def choose_span(served: Sequence[int], footprint: Footprint, memory: int) -> Span | None:
    """The longest spans that fit `memory` bytes are candidates; the one that fills the first gap best wins.

    The gap is the first run of least served layers. Filling from its beginning leaves no scraps for those who
    come later, and what memory is left over goes to its least served neighbours.
    served: how many nodes serve each layer. Returns None when not even one layer fits.
    """
    candidates = [span for first in range(len(served)) if (span := _longest(first, len(served), footprint, memory))]
    gap = _first_gap(served)

    def merit(span: Span) -> tuple[int, float, int]:
        filled = sum(layer in span for layer in gap) if gap[0] in span else 0
        counts = served[span.first : span.last + 1]
        return filled, -sum(counts) / len(counts), -span.first

    return max(candidates, key=merit, default=None)


def _first_gap(served: Sequence[int]) -> list[int]:
    """The first consecutive layers of those that the fewest nodes serve."""
    first = served.index(min(served))
    return list(takewhile(lambda layer: served[layer] == served[first], range(first, len(served))))


def _longest(first: int, layers: int, footprint: Footprint, memory: int) -> Span | None:
    for last in range(layers - 1, first - 1, -1):
        if footprint.of(Span(first, last)) <= memory:
            return Span(first, last)
    return None
