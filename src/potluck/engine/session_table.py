"""Tracks which llama.cpp sequence holds which session, and how many cells of the KV cache are taken. Pure.

Where sessions share the cells, those that a session has left, at its end or when it was cut back, stay occupied until
the cache is arranged anew: llama.cpp would fill the hole with the next rows of other sessions, below their own, and
attention sums over the cells in order, so that bits would change. In slots there are no holes, and the cells that were
left are free at once. Whenever the cache is arranged anew, the engine stores idle sessions outside of it, because
attention looks at every occupied cell, and slots are few.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from potluck.engine.slots import Shape, best_shape, lay_together
from potluck.errors import CapacityError
from potluck.types import Capacity

_MANY_CELLS = 1024
"""The cells that were left, or are of idle sessions, that are worth a new arrangement, even if others hold no more."""
_IDLE_FORWARDS = 64
"""A session that had no part in this many forwards is idle."""
_REGRET_FORWARDS = 1024
"""The forwards in which no session is stored for its slot, after one came back that was stored too soon."""
_STORED_SHARE = 8
"""The share of the cache's positions that may be kept outside of it, for idle sessions."""

State = TypeVar("State")
"""A session's keys and values outside of the cache."""


class Arrangement(NamedTuple):
    """The shape of the cache, and the sequence of each session in it."""

    shape: Shape
    sequences: dict[int, int]


@dataclass
class _Held(Generic[State]):
    """A session that is held. used: the number of its latest forward. stored: its state, set instead of `sequence`.

    at: the number of the forward at which it was stored.
    """

    sequence: int | None = None
    length: int = 0
    used: int = 0
    stored: State | None = None
    at: int = 0


class SessionTable(Generic[State]):
    """The sessions of an engine. stores: whether idle ones may be kept outside of the cache.

    slots: whether sessions may have cells of their own.
    """

    def __init__(self, capacity: Capacity, *, stores: bool = True, slots: bool = True) -> None:
        self._capacity = capacity
        self._stores = stores
        self._slots = slots
        self.shape = self._best_shape([])
        self._sessions: dict[int, _Held[State]] = {}
        self._free = set(range(self.shape.sessions))
        self._ended: list[int] = []
        self._left_cells = 0
        self._just_left = 0
        """The cells among these that were left by sessions that were cut back since the latest forward."""
        self._forwards = 0
        self._regretted = -_REGRET_FORWARDS

    def _best_shape(self, lengths: Collection[int], now: Shape | None = None) -> Shape:
        return best_shape(self._capacity, lengths, now) if self._slots else Shape(self._capacity.sessions, 0)

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
            held.sequence = min(self._free)
            self._free.remove(held.sequence)
            self._sessions[session] = held
        state, held.stored = held.stored, None
        if state is not None and self._forwards - held.at < _IDLE_FORWARDS:
            self._regretted = self._forwards
        return held.sequence, state

    def begin_forward(self) -> None:
        self._forwards += 1

    def use(self, session: int, length: int | None = None) -> None:
        """Note that the session has a part in this forward, and holds this many positions after it."""
        held = self._sessions[session]
        held.used = self._forwards
        self._just_left = 0
        if length is not None:
            held.length = length

    def truncate(self, session: int, length: int) -> None:
        if self.shape.is_shared:
            self._left_cells += self.length(session) - length
            self._just_left += self.length(session) - length
        self._sessions[session].length = length

    def close(self, session: int) -> int | None:
        """Forget the session. Returns the sequence whose cells are to be given back at once, if there is one."""
        held = self._sessions.pop(session, None)
        return None if held is None or held.sequence is None else self._end(held.sequence, held.length)

    def _end(self, sequence: int, cells: int) -> int | None:
        if self.shape.is_shared:
            self._ended.append(sequence)
            self._left_cells += cells
            return None
        self._free.add(sequence)
        return sequence

    def fits(self, lengths: Mapping[int, int]) -> bool:
        """Whether these sessions can have these lengths as the cache is arranged now."""
        newcomers = lengths.keys() - self._in_cache().keys()
        if len(newcomers) > len(self._free):
            return False
        if not self.shape.is_shared:
            return max(lengths.values(), default=0) <= self.shape.cells
        grown = sum(length - (0 if one in newcomers else self.length(one)) for one, length in lengths.items())
        return self._taken() + grown <= self._capacity.positions

    def is_crowded(self) -> bool:
        """Whether enough cells are of no use now to make a new arrangement worth its time.

        A forward does not count what was cut back for it, because its caller asked before whether it would take long.
        """
        if not self.shape.is_shared:
            return False
        live = self._in_cache()
        useless = self._left_cells - self._just_left + sum(map(self.length, self.idle()))
        return not live or useless > max(_MANY_CELLS, sum(map(self.length, live)) - useless)

    def idle(self) -> list[int]:
        """The sessions in the cache that had no part in the latest forwards, as many as may be kept outside of it."""
        return self._storable(
            [one for one, held in self._in_cache().items() if self._forwards - held.used >= _IDLE_FORWARDS]
        )

    def to_store(self, lengths: Mapping[int, int]) -> list[int]:
        """The sessions to store before these can have these lengths: idle ones, and others if slots run out.

        Of the others it is those that were used longest ago. Sessions that have ended may be kept for the next turn of
        a chat, and new slots would take longer. If one comes back soon, it was too soon, and slots are dealt anew.
        """
        cached = self._in_cache()
        idle = [one for one in self.idle() if one not in lengths]
        if self.shape.is_shared or self._forwards - self._regretted < _REGRET_FORWARDS:
            return idle
        needed = len(lengths.keys() - cached.keys()) - len(self._free)
        others = sorted(cached.keys() - lengths.keys() - set(idle), key=lambda one: cached[one].used)
        return self._storable(idle + others[: max(0, needed - len(idle))])

    def _storable(self, sessions: Collection[int]) -> list[int]:
        """Leave out the sessions for which there is no room outside of the cache."""
        if not self._stores:
            return []
        stored = sum(held.length for held in self._sessions.values() if held.stored is not None)
        room = self._capacity.positions // _STORED_SHARE - stored
        chosen = []
        for session in sessions:
            if self.length(session) <= room:
                room -= self.length(session)
                chosen.append(session)
        return chosen

    def store(self, session: int, state: State) -> int | None:
        """Keep the session's state here; its sequence ends. Returns the same as `close`."""
        held = self._sessions[session]
        assert held.sequence is not None
        sequence, held.sequence, held.stored, held.at = held.sequence, None, state, self._forwards
        return self._end(sequence, held.length)

    def sequence(self, session: int) -> int:
        """The sequence of a session that is in the cache."""
        sequence = self._sessions[session].sequence
        assert sequence is not None
        return sequence

    def best_arrangement(self, lengths: Mapping[int, int], *, reshape: bool = True) -> Arrangement:
        """How the cache should be arranged so that these sessions, new or not, can have these lengths.

        Sessions that were last in one forward lie side by side. So do those of `lengths`. reshape: whether it may have
        another shape.
        """
        cached = self._in_cache()
        wanted = {session: held.length for session, held in cached.items()} | dict(lengths)
        shape = self._best_shape(wanted.values(), self.shape) if reshape else self.shape
        groups: dict[int, dict[int, int]] = defaultdict(dict)
        for session, held in cached.items():
            assert held.sequence is not None
            groups[self._forwards + 1 if session in lengths else held.used][session] = held.sequence
        if shape == self.shape and shape.is_shared:
            return Arrangement(shape, {session: self.sequence(session) for session in cached})
        return Arrangement(shape, lay_together(list(groups.values()), shape.sessions))

    def would_move(self, lengths: Mapping[int, int]) -> int:
        """The positions that an arrangement for these sessions, which fit already, would move."""
        return sum(map(self.length, self.moving(self.best_arrangement(lengths))))

    def moving(self, arrangement: Arrangement) -> list[int]:
        """The sessions that have to be moved for this arrangement. Those of shared cells all are, to fill the holes."""
        sequences = arrangement.sequences
        if arrangement.shape != self.shape or self.shape.is_shared:
            return list(sequences)
        return [session for session, sequence in sequences.items() if sequence != self.sequence(session)]

    def arranged(self, arrangement: Arrangement) -> None:
        """Note that the cache is arranged like this, and holds nothing else."""
        self.shape = arrangement.shape
        for session, sequence in arrangement.sequences.items():
            self._sessions[session].sequence = sequence
        self._free = set(range(self.shape.sessions)) - set(arrangement.sequences.values())
        self._ended.clear()
        self._left_cells = self._just_left = 0

    def in_cache(self) -> list[int]:
        """The sessions that have a sequence."""
        return list(self._in_cache())

    def is_empty(self) -> bool:
        """Whether no sequence was ever written to since the latest arrangement."""
        return not self._ended and not self._in_cache()

    def _in_cache(self) -> dict[int, _Held[State]]:
        return {session: held for session, held in self._sessions.items() if held.sequence is not None}

    def _taken(self) -> int:
        return self._left_cells + sum(held.length for held in self._in_cache().values())
