"""The sessions in the KV cache of the llama.cpp engine: they come, go, grow, are cut back, stored, moved, exported."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from potluck.engine import cells
from potluck.engine.context import Context
from potluck.engine.model_facts import ModelFacts
from potluck.engine.session_table import SessionTable
from potluck.engine.slots import Scatter, Shape
from potluck.errors import CapacityError, EngineError
from potluck.types import Capacity

log = logging.getLogger(__name__)

_IMMOVABLE = "This model's memory is of a kind that cannot be moved."


class SessionCache:
    """Sessions in one context at a time. open_context: opens one with a cache of the given shape."""

    def __init__(self, facts: ModelFacts, capacity: Capacity, open_context: Callable[[Shape], Context]) -> None:
        self._facts = facts
        self._open_context = open_context
        # A state is as large as it is however few positions it stands for: what is stored would have no bound.
        stores, slots = not facts.is_recurrent, facts.form is not None
        self.table: SessionTable[bytes] = SessionTable(capacity, stores=stores, slots=slots)
        self.scatter = Scatter()
        self.context = open_context(self.table.shape)

    @property
    def has_slots(self) -> bool:
        return not self.table.shape.is_shared

    def sequence(self, session: int) -> int:
        """The sequence of a session, new or not, with its cells in it. Raises CapacityError when there is no room."""
        sequence, state = self.table.place(session)
        if state is not None and not self.context.put(sequence, state):
            self._give_back(self.table.store(session, state))
            raise EngineError("llama.cpp cannot put a session back into its cache.")
        return sequence

    def must_arrange(self, lengths: Mapping[int, int]) -> bool:
        """Whether the cache has to be arranged anew before these sessions, new or not, can have these lengths."""
        return not self.table.fits(lengths) or self.table.is_crowded()

    def make_room(self, lengths: Mapping[int, int]) -> None:
        """Arrange the cache anew if it must be."""
        if self.must_arrange(lengths):
            self.arrange(lengths)

    def lay_together(self, lengths: Mapping[int, int]) -> bool:
        """Let these sessions, which will have these lengths, lie side by side if that pays. Returns whether it does."""
        pays = self.has_slots and self.scatter.pays(self.table.would_move(lengths))
        if pays:
            self.arrange(lengths)
        return pays

    def arrange(self, lengths: Mapping[int, int] = MappingProxyType({}), *, reshape: bool = True) -> None:
        """Arrange the cache anew, so that these sessions, new or not, can have these lengths.

        Idle sessions are stored, and where cells are shared, the others are laid one after the other. Moving a
        session's cells as a whole changes no bit of what follows. reshape: whether the cells may be dealt in another
        way, which takes half a second for each GiB.
        """
        if self.table.is_empty() and self.table.fits(lengths):
            return
        begin = time.perf_counter()
        for session in self.table.to_store(lengths):
            self._give_back(self.table.store(session, self._save(session)))
        arrangement = self.table.best_arrangement(lengths, reshape=reshape)
        moving = self.table.moving(arrangement)
        states = {session: self._save(session) for session in moving if session in self.table}
        self._empty(arrangement.shape, moving)
        self.table.arranged(arrangement)
        positions = sum(map(self.table.length, moving))
        for session, state in states.items():
            if not self.context.put(self.table.sequence(session), state):
                log.warning("llama.cpp lost session %d when it arranged its cache anew.", session)
                self.close(session)
        self.scatter.moved(positions, time.perf_counter() - begin)

    def _empty(self, shape: Shape, moving: Sequence[int]) -> None:
        """Give the cache this shape, and empty the sequences of what moves within it."""
        if shape != self.table.shape:
            self.context.close()
            self.context = self._open_context(shape)
        elif shape.is_shared:
            self.context.forget_all()
        else:
            for session in moving:
                self.context.forget(self.table.sequence(session))

    def close(self, session: int) -> None:
        """Forget the session. Shared cells stay occupied until they are many or are needed: see `arrange`."""
        self._give_back(self.table.close(session))

    def _give_back(self, sequence: int | None) -> None:
        if sequence is not None:
            self.context.forget(sequence)

    def undo(self, lengths: Mapping[int, int]) -> None:
        """After a failed decode, let these sessions have these lengths again. Those without any are forgotten."""
        for session, length in lengths.items():
            if length:
                self.context.forget(self.table.sequence(session), length)
                self.table.use(session, length)
            else:
                self.close(session)
        self._fill_holes()

    def drop_empty(self) -> None:
        """Forget sessions that were placed, but hold nothing."""
        for session in self.table.in_cache():
            if session not in self.table:
                self.close(session)

    def truncate(self, session: int, length: int) -> None:
        """Forget the session's positions from `length` on. Raises EngineError when its memory cannot do this.

        Of guesses that were wrong a session forgets a few positions again and again, so that nothing is moved here.
        """
        if length >= self.table.length(session):
            return
        if length == 0:
            self.close(session)
        elif self._forget_from(session, length):
            self.table.truncate(session, length)
            if not self.context.keeps_leftovers:
                self._fill_holes()
        else:
            raise EngineError("This model's memory cannot forget a part of a session.")

    def _forget_from(self, session: int, length: int) -> bool:
        if self.table.stored(session) is not None:
            self.make_room({session: self.table.length(session)})
        sequence = self.sequence(session)
        # What lies before the window is not saved, and so is gone when a session was moved.
        if self._facts.window and self.context.first_kept(sequence) > self._facts.first_seen(length):
            return False
        return self.context.cut(sequence, length)

    def _fill_holes(self) -> None:
        """After a part of a session was forgotten, see to it that no other one fills the hole."""
        if not self.has_slots:
            self.arrange(reshape=False)

    def _save(self, session: int) -> bytes:
        return self.context.save(self.table.sequence(session))

    def export(self, session: int) -> bytes:
        """The session's keys and values. Raises EngineError if it is not here, or cannot be moved."""
        if session not in self.table:
            raise EngineError(f"Session {session} is not here.")
        stored = self.table.stored(session)
        state = self._save(session) if stored is None else stored
        if self._read(state)[1] != self.table.length(session):
            raise EngineError(_IMMOVABLE)
        return state

    def layout(self, session: int) -> cells.Layout:
        """The layout of the session's cells, which is that of all of them. Raises EngineError as `export` does."""
        return self._read(self.export(session))[0]

    def _read(self, state: bytes) -> tuple[cells.Layout, int]:
        if self._facts.form is None:
            raise EngineError(_IMMOVABLE)
        return cells.read(state, self._facts.form)

    def restore(self, session: int, state: bytes, own_layout: Callable[[], cells.Layout]) -> None:
        """Hold what was exported elsewhere as a new session. Raises EngineError when it does not belong here."""
        layout, length = self._read(state)
        if layout != own_layout():
            raise EngineError("These keys and values belong to another span, or to another kind of cache.")
        self.make_room({session: length})
        if not self.table.fits({session: length}):
            raise CapacityError(f"There is no room for one more session of {length} positions.")
        sequence, _ = self.table.place(session)
        if not self.context.put(sequence, state):
            self.close(session)
            raise EngineError("llama.cpp cannot put a session back into its cache.")
        self.table.use(session, length)
