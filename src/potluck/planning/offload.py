"""Divides a span between a graphics card and the machine's other memory. Pure.

Attention with its keys and values comes first, and experts take the room that is left. llama.cpp puts the last layers
of a model on a card, and the head after them; the embedding, of which a token reads one row, always stays behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CARD_RESERVE_BYTES = 128 << 20
"""The bytes of a card for the engine's work buffers, of which the logits of 64 rows are the largest part."""

_MOST_BYTES = 1 << 60
"""No card has as much, whatever a node says, and sums of such numbers have room in NumPy's integers."""

Numbers = npt.NDArray[np.int64]


class Division(NamedTuple):
    """How spans are divided, one array item for each.

    layers, experts: the first layers that lie on the card, and that lie there with their experts; the end of the span
    if none does. head: the bytes of the head that lie on the card.
    card, weights, cache: the bytes on the card, and those of the layers' weights and caches in other memory.
    """

    layers: Numbers
    experts: Numbers
    head: Numbers
    card: Numbers
    weights: Numbers
    cache: Numbers


class Parts:
    """The bytes of a model's layers, each as what always stays together (`dense`), its experts and its cache."""

    def __init__(self, dense: Sequence[int], experts: Sequence[int], cache: Sequence[int]) -> None:
        self._dense, self._experts, self._cache = map(_sums, (dense, experts, cache))
        self._attention = self._dense + self._cache

    def divide(self, first: Numbers, end: Numbers, head: Numbers, card: int) -> Division:
        """Divide the spans of the layers from `first` on and before `end`, with `head` bytes of a head each, for a card
        of so many bytes.
        """
        room = np.full(len(first), min(max(0, card - CARD_RESERVE_BYTES), _MOST_BYTES))
        on_card = np.where(head <= room, head, 0)
        room = room - on_card
        layers = _longest(self._attention, first, end, room)
        room = room - (self._attention[end] - self._attention[layers])
        # A layer without experts would not end the run of those that are taken with them.
        experts = _longest(self._experts, layers, end, room)
        held = self._experts[end] - self._experts[experts]
        weights = self._dense[layers] - self._dense[first] + self._experts[experts] - self._experts[first]
        taken = on_card + self._attention[end] - self._attention[layers] + held
        return Division(layers, experts, on_card, taken, weights, self._cache[layers] - self._cache[first])


def _sums(sizes: Sequence[int]) -> Numbers:
    return np.cumsum([0, *sizes], dtype=np.int64)


def _longest(sums: Numbers, first: Numbers, end: Numbers, room: Numbers) -> Numbers:
    """The beginnings of the longest runs of layers that end before `end`, begin at `first` or later, and fit into the
    room.
    """
    return np.maximum(first, np.searchsorted(sums, sums[end] - room))
