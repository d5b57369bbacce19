"""Decides whether a node should move to other layers, once this has looked right for a while. Without clock and I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from potluck.planning.cost import Footprint
from potluck.planning.machine import Placed
from potluck.planning.rebalancing import Move, choose_move

_LOOKS = 3
"""The times in a row that a move must look right, so that a node that restarts finds its place again."""


class Mover:
    """Is asked at regular intervals, and judges only what has changed, because judging a large swarm takes a while."""

    def __init__(self, footprint: Footprint) -> None:
        self._footprint = footprint
        self._seen: tuple[Sequence[Placed], Collection[str]] | None = None
        self._wish: Move | None = None
        self._looks = 0

    def look(self, placed: Sequence[Placed], movable: Collection[str]) -> Move | None:
        """The move to make now among the nodes of these names."""
        if (placed, movable) != self._seen:
            self._seen = placed, movable
            wish = choose_move(self._footprint, placed, movable) if movable else None
            self._looks = self._looks if wish == self._wish else 0
            self._wish = wish
        self._looks += 1
        return self._wish if self._looks >= _LOOKS else None

    def reset(self) -> None:
        """Start over, because it is not yet known what the swarm will be."""
        self._seen, self._wish, self._looks = None, None, 0
