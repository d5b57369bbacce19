"""Decides how the cells of the KV cache are dealt to sessions, and which session gets which slot. Pure.

Attention looks at every cell that is occupied in the part of the cache where a row's session lies. If all sessions
share the cells, a token pays for the positions of every other session. With slots, each session has cells of its own.
But llama.cpp deals the cells out evenly, and computes only slots with consecutive numbers in one graph.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import log2
from typing import NamedTuple

from potluck.types import Capacity

_CELLS = 256
"""llama.cpp makes slots of a multiple of this many cells."""
_USUAL = 16
"""The number of slots to begin with."""
_POSITION_S = 1e-5
"""What moving a position takes in seconds, as long as none has been moved."""


class Shape(NamedTuple):
    """The shape of a KV cache with room for so many sessions. cells: how many each of them has; 0: they share all."""

    sessions: int
    cells: int

    @property
    def is_shared(self) -> bool:
        return not self.cells


def best_shape(capacity: Capacity, lengths: Collection[int], now: Shape | None = None) -> Shape:
    """The shape for sessions of these lengths: slots if each session fits into one, and otherwise shared cells.

    Among the numbers of slots that are possible, the one that is nearest to that of `now` wins, so that a shape lasts.
    """
    usual = now.sessions if now and not now.is_shared else _USUAL
    longest = max(lengths, default=0)
    possible = [one for one in _shapes(capacity) if len(lengths) <= one.sessions and longest <= one.cells]
    shared = Shape(capacity.sessions, 0)
    return min(possible, key=lambda one: abs(log2(one.sessions / usual)), default=shared)


def _shapes(capacity: Capacity) -> list[Shape]:
    """All ways to deal the cells evenly. A single slot would be no other than shared cells."""
    shapes, sessions = [], capacity.sessions
    while sessions > 1:
        cells = capacity.positions // sessions // _CELLS * _CELLS
        if cells:
            shapes.append(Shape(sessions, cells))
        sessions //= 2
    return shapes


def lay_together(groups: Sequence[Mapping[int, int]], slots: int) -> dict[int, int]:
    """The slot of each session, such that those of a group lie side by side and few have to move.

    groups: sessions that run together, each with its slot now. No session is in two of them, and all fit into `slots`.
    """
    free, laid = set(range(slots)), dict[int, int]()
    for group in sorted(groups, key=len, reverse=True):
        window = _best_window(group, free)
        if window is None:
            return _packed(groups)
        free -= set(window)
        laid |= _fill(group, window)
    return laid


def _best_window(group: Mapping[int, int], free: Collection[int]) -> range | None:
    """The free slots side by side in which most of the group is already; None if there are none for all of it."""
    windows = [range(first, first + len(group)) for first in sorted(free)]
    able = [window for window in windows if all(slot in free for slot in window)]
    return max(able, key=lambda window: sum(slot in window for slot in group.values()), default=None)


def _fill(group: Mapping[int, int], window: Sequence[int]) -> dict[int, int]:
    """Keep those that are in the window, and give the others the slots that are left."""
    staying = {session: slot for session, slot in group.items() if slot in window}
    left = iter(sorted(set(window) - set(staying.values())))
    return staying | {session: next(left) for session in group if session not in staying}


def _packed(groups: Sequence[Mapping[int, int]]) -> dict[int, int]:
    """One group after the other, from the first slot on. This always fits."""
    in_order = sorted(groups, key=lambda group: min(group.values()))
    sessions = [session for group in in_order for session in sorted(group, key=group.__getitem__)]
    return {session: slot for slot, session in enumerate(sessions)}


class Scatter:
    """Decides when it pays to lay sessions together that run together. Times are passed in, in seconds.

    It waits until the graphs that were one too many have taken as long as the move will take. So the two together never
    take more than twice as long as the better choice, whatever comes.
    """

    def __init__(self) -> None:
        self._lost_s = 0.0
        self._position_s = _POSITION_S

    def ran(self, rows: Sequence[int], seconds: Sequence[float], least: int) -> None:
        """Note a forward in several graphs with these rows where `least` would have been enough.

        A graph without rows takes about as long as one row more.
        """
        surplus = sorted(time / (1 + count) for count, time in zip(rows, seconds, strict=True))
        self._lost_s += sum(surplus[: len(rows) - least])

    def pays(self, positions: int) -> bool:
        """Whether it pays to move this many positions."""
        return self._lost_s > max(positions, 1) * self._position_s

    def moved(self, positions: int, seconds: float) -> None:
        """Note that this many positions were moved."""
        self._lost_s = 0.0
        if positions:
            self._position_s = seconds / positions
