"""Tracks which llama.cpp sequence holds which session, and how many cells of the KV cache are taken. Pure.

The cells of an ended session stay occupied until a compaction: llama.cpp would fill the hole with the next rows of
other sessions, below their own, and attention sums over the cells in order, so that bits would change. At a compaction
the engine stores idle sessions outside of the cache, because attention looks at every occupied cell.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Generic, TypeVar

from potluck.errors import CapacityError
from potluck.types import Capacity

_MANY_CELLS = 1024
"""The cells of ended and idle sessions that are worth a compaction, even if others hold no more."""
_IDLE_FORWARDS = 64
"""A session that had no part in this many forwards is idle."""
_STORED_SHARE = 8
"""The share of the cache's positions that may be kept outside of it, for idle sessions."""

State = TypeVar("State")
"""A session's keys and values outside of the cache."""


@dataclass
class _Held(Generic[State]):
    """A session that is held. used: the number of its latest forward. stored: its state, set instead of `sequence`."""

    sequence: int | None = None
    length: int = 0
    used: int = 0
    stored: State | None = None


class SessionTable(Generic[State]):
    """The sessions of an engine. stores: whether idle ones may be kept outside of the cache."""

    def __init__(self, capacity: Capacity, *, stores: bool = True) -> None:
        self._capacity = capacity
        self._stores = stores
        self._sessions: dict[int, _Held[State]] = {}
        self._free = list(range(capacity.sessions))
        self._ended: list[int] = []
        self._ended_cells = 0
        self._forwards = 0

    def __len__(self) -> int:
        """The number of sessions that hold positions."""
        return sum(held.length > 0 for held in self._sessions.values())

    def __contains__(self, session: int) -> bool:
        return self.length(session) > 0

    def length(self, session: int) -> int:
        """The positions that the session holds; 0 for an unknown one."""
        return self._sessions[session].length if session in self._sessions else 0

    def stored(self, session: int) -> State | None:
        """The session's state, if it is kept outside of the cache."""
        return self._sessions[session].stored if session in self._sessions else None

    def place(self, session: int) -> tuple[int, State | None]:
        """The session's sequence, and the state that has to be put there first, if it was stored.

        Raises CapacityError when all sequences are taken.
        """
        held = self._sessions.get(session) or _Held()
        if held.sequence is None:
            if not self._free:
                raise CapacityError(f"All {self._capacity.sessions} sessions of this node are taken.")
            held.sequence = self._free.pop()
            self._sessions[session] = held
        state, held.stored = held.stored, None
        return held.sequence, state

    def begin_forward(self) -> None:
        self._forwards += 1

    def use(self, session: int, length: int | None = None) -> None:
        """Note that the session has a part in this forward, and holds this many positions after it."""
        held = self._sessions[session]
        held.used = self._forwards
        if length is not None:
            held.length = length

    def truncate(self, session: int, length: int) -> None:
        self._sessions[session].length = length

    def close(self, session: int) -> None:
        held = self._sessions.pop(session, None)
        if held is not None and held.sequence is not None:
            self._ended.append(held.sequence)
            self._ended_cells += held.length

    def must_compact(self, sessions: Set[int], rows: int) -> bool:
        """Whether these sessions, with this many more rows, fit only after a compaction."""
        newcomers = sessions - self._in_cache().keys()
        cells = self._taken() + sum(map(self.length, newcomers)) + rows
        return cells > self._capacity.positions or len(newcomers) > len(self._free)

    def is_crowded(self) -> bool:
        """Whether enough cells are of no use now to make a compaction worth its time."""
        live = self._in_cache()
        useless = self._ended_cells + sum(map(self.length, self.idle()))
        return not live or useless > max(_MANY_CELLS, sum(map(self.length, live)) - useless)

    def fits(self, length: int) -> bool:
        """Whether there is a free sequence and room for one more session with this many positions."""
        return bool(self._free) and self._taken() + length <= self._capacity.positions

    def idle(self) -> list[int]:
        """The sessions in the cache that had no part in the latest forwards, as many as may be kept outside of it."""
        if not self._stores:
            return []
        stored = sum(held.length for held in self._sessions.values() if held.stored is not None)
        room = self._capacity.positions // _STORED_SHARE - stored
        idle = []
        for session, held in self._in_cache().items():
            if self._forwards - held.used >= _IDLE_FORWARDS and held.length <= room:
                room -= held.length
                idle.append(session)
        return idle

    def store(self, session: int, state: State) -> None:
        """Keep the session's state here; its sequence ends."""
        held = self._sessions[session]
        assert held.sequence is not None
        self._ended.append(held.sequence)
        held.sequence, held.stored = None, state

    def sequence(self, session: int) -> int:
        """The sequence of a session that is in the cache."""
        sequence = self._sessions[session].sequence
        assert sequence is not None
        return sequence

    def in_cache(self) -> list[int]:
        """The sessions that have a sequence."""
        return list(self._in_cache())

    def is_empty(self) -> bool:
        """Whether no sequence was ever written to since the latest compaction."""
        return not self._ended and not self._in_cache()

    def compacted(self) -> None:
        """Note that the cache holds the sessions of `in_cache()` and nothing else."""
        self._free += self._ended
        self._ended.clear()
        self._ended_cells = 0

    def _in_cache(self) -> dict[int, _Held[State]]:
        return {session: held for session, held in self._sessions.items() if held.sequence is not None}

    def _taken(self) -> int:
        return self._ended_cells + sum(held.length for held in self._in_cache().values())
