"""The table of sessions of the llama.cpp engine: who has which sequence, and when cells must be given back."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from potluck.engine.session_table import SessionTable
from potluck.engine.slots import Shape
from potluck.errors import CapacityError
from potluck.types import Capacity

Table = SessionTable[str]


def table(sessions: int = 3, positions: int = 100) -> Table:
    """One whose sessions share their cells, because there are too few for slots."""
    return SessionTable(Capacity(sessions, positions, 64), slots=positions < 10_000)


def grow(table: Table, session: int, length: int) -> int:
    """A forward after which the session holds so many positions; returns its sequence."""
    table.begin_forward()
    sequence, _ = table.place(session)
    table.use(session, length)
    return sequence


def arrange(table: Table, lengths: Mapping[int, int] = MappingProxyType({})) -> list[int]:
    """What the engine does to its cache. Returns the sessions that were moved."""
    for session in table.to_store(lengths):
        table.store(session, f"state of {session}")
    arrangement = table.best_arrangement(lengths)
    moving = table.moving(arrangement)
    table.arranged(arrangement)
    return moving


def test_a_session_keeps_its_sequence_and_its_length() -> None:
    sessions = table()
    sequence = grow(sessions, 7, 5)
    assert grow(sessions, 7, 6) == sequence
    assert (sessions.length(7), len(sessions), 7 in sessions) == (6, 1, True)
    assert (sessions.length(8), 8 in sessions, sessions.stored(8)) == (0, False, None)


def test_no_sequence_is_given_twice_and_one_too_many_is_refused() -> None:
    sessions = table()
    assert len({grow(sessions, session, 1) for session in range(3)}) == 3
    with pytest.raises(CapacityError, match="All 3 sessions"):
        sessions.place(9)
    assert 9 not in sessions


def test_the_cells_and_sequences_of_ended_sessions_come_back_at_a_new_arrangement() -> None:
    sessions = table()
    for session in range(3):
        grow(sessions, session, 30)
    sessions.close(0)
    assert sessions.length(0) == 0
    assert not sessions.fits({5: 1})
    assert arrange(sessions) == [1, 2]
    assert sessions.fits({5: 40})
    assert not sessions.fits({5: 41})
    assert sorted(sessions.in_cache()) == [1, 2]


def test_more_rows_than_there_are_cells_take_a_new_arrangement() -> None:
    sessions = table()
    grow(sessions, 1, 60)
    assert sessions.fits({1: 100})
    assert not sessions.fits({1: 101})


def test_the_cache_is_crowded_when_what_is_useless_outweighs_the_rest() -> None:
    sessions = table(sessions=9, positions=10_000)
    grow(sessions, 1, 3000)
    grow(sessions, 2, 1024)
    sessions.close(2)
    assert not sessions.is_crowded()
    grow(sessions, 3, 2000)
    sessions.close(3)
    assert sessions.is_crowded()  # 3,024 cells of ended sessions, 3,000 of the others


def test_the_cache_is_crowded_when_nobody_is_left() -> None:
    sessions = table()
    grow(sessions, 1, 1)
    sessions.close(1)
    assert sessions.is_crowded()
    assert not sessions.is_empty()
    arrange(sessions)
    assert sessions.is_empty()


def idle_table() -> Table:
    """Session 1 holds 10 positions and session 2 20 of 100; only session 3 goes on."""
    sessions = table(sessions=4)
    grow(sessions, 1, 10)
    grow(sessions, 2, 20)
    for length in range(1, 70):
        grow(sessions, 3, length)
    return sessions


def test_idle_sessions_are_those_that_may_be_stored() -> None:
    """An eighth of the cache's 100 positions has room for 10, not for 20."""
    sessions = idle_table()
    assert sessions.idle() == [1]
    arrange(sessions)
    assert sessions.stored(1) == "state of 1"
    assert sorted(sessions.in_cache()) == [2, 3]
    assert (sessions.length(1), len(sessions)) == (10, 3)
    assert sessions.idle() == []


def test_a_stored_session_goes_on_with_its_state_in_a_new_sequence() -> None:
    sessions = idle_table()
    arrange(sessions)
    assert not sessions.fits({1: 12})  # 69 and 20 in the cache, and 10 that come back
    assert sessions.fits({1: 11})
    sequence, state = sessions.place(1)
    assert state == "state of 1"
    assert sessions.stored(1) is None
    assert sessions.sequence(1) == sequence
    assert sessions.place(1) == (sequence, None)


def test_a_session_that_is_closed_while_it_is_stored_leaves_no_cells() -> None:
    sessions = idle_table()
    arrange(sessions)
    sessions.close(1)
    assert (sessions.length(1), sessions.stored(1), sessions.fits({9: 11}), sessions.fits({9: 12})) == (
        0,
        None,
        True,
        False,
    )


def test_the_shared_cells_of_a_truncated_session_come_back_at_a_new_arrangement() -> None:
    sessions = table()
    grow(sessions, 1, 90)
    sessions.truncate(1, 20)
    assert sessions.length(1) == 20
    assert sessions.fits({1: 25, 2: 5})
    assert not sessions.fits({1: 26, 2: 5})
    arrange(sessions)
    assert sessions.fits({2: 80})


def test_the_cache_is_crowded_when_much_was_truncated_in_many_small_pieces() -> None:
    sessions = table(sessions=9, positions=10_000)
    for _ in range(1025):
        grow(sessions, 1, 12)
        sessions.truncate(1, 11)
    assert not sessions.is_crowded()  # a forward that comes now was told to be a quick one before the last cut
    grow(sessions, 1, 12)
    assert sessions.is_crowded()
    arrange(sessions)
    assert not sessions.is_crowded()


def test_a_truncated_slot_has_its_cells_again_at_once() -> None:
    sessions = slotted()
    for _ in range(2000):
        grow(sessions, 1, 250)
        sessions.truncate(1, 3)
    assert not sessions.is_crowded()
    assert sessions.fits({1: 256})


def slotted() -> Table:
    """Four slots of 256 cells."""
    sessions = SessionTable[str](Capacity(4, 1024, 64))
    assert sessions.shape == Shape(4, 256)
    return sessions


def test_a_slot_is_free_as_soon_as_its_session_ends() -> None:
    sessions = slotted()
    assert [grow(sessions, session, 10) for session in range(4)] == [0, 1, 2, 3]
    assert not sessions.fits({9: 1})
    assert sessions.close(2) == 2
    assert sessions.fits({9: 256})
    assert not sessions.fits({9: 257})
    assert not sessions.is_crowded()
    assert grow(sessions, 9, 1) == 2


def test_fewer_and_longer_slots_when_a_session_outgrows_its_own() -> None:
    sessions = slotted()
    grow(sessions, 1, 256)
    assert not sessions.fits({1: 257})
    assert arrange(sessions, {1: 257}) == [1]
    assert sessions.shape == Shape(2, 512)
    assert sessions.fits({1: 512, 2: 1})
    assert not sessions.fits({1: 512, 2: 1, 3: 1})


def test_sessions_share_their_cells_when_they_are_too_unequal_for_slots() -> None:
    sessions = slotted()
    for session in range(3):
        grow(sessions, session, 10)
    arrange(sessions, {0: 500})
    assert sessions.shape == Shape(4, 0)
    assert sessions.fits({0: 1004, 1: 10, 2: 10})
    grow(sessions, 0, 500)
    sessions.close(0)
    assert sessions.close(1) is None
    arrange(sessions)
    assert sessions.shape == Shape(4, 256)


def test_those_that_ran_together_are_laid_side_by_side() -> None:
    sessions = slotted()
    for session in range(4):
        grow(sessions, session, 10)
    for pair in ((0, 2), (1, 3)):
        sessions.begin_forward()
        for session in pair:
            sessions.use(session, 11)
    assert sessions.would_move({0: 12, 2: 12}) == 22
    assert len(arrange(sessions, {0: 12, 2: 12})) == 2
    for one, other in ((0, 2), (1, 3)):
        assert abs(sessions.sequence(one) - sessions.sequence(other)) == 1
    assert sessions.would_move({0: 12, 2: 12}) == 0


def test_a_session_that_is_about_to_run_is_not_stored_as_idle() -> None:
    sessions = slotted()
    for session in range(2):
        grow(sessions, session, 10)
    for length in range(1, 70):
        grow(sessions, 3, length)
    assert sessions.idle() == [0, 1]
    assert sessions.to_store({1: 11}) == [0]
    arrange(sessions, {1: 11})
    assert sessions.stored(0) == "state of 0"
    assert sessions.in_cache() == [1, 3]


def test_when_slots_run_out_the_one_that_was_used_longest_ago_is_stored() -> None:
    sessions = slotted()
    for session in range(4):
        grow(sessions, session, 10)
    grow(sessions, 0, 11)
    assert sessions.to_store({9: 5}) == [1]
    assert sessions.to_store({9: 5, 1: 11}) == [2]
    arrange(sessions, {9: 5})
    assert sessions.shape == Shape(4, 256)
    assert grow(sessions, 9, 5) == 1
    assert sessions.stored(1) == "state of 1"


def test_one_that_was_stored_too_soon_makes_slots_be_dealt_anew() -> None:
    sessions = SessionTable[str](Capacity(32, 32 * 256, 64))
    for session in range(16):
        grow(sessions, session, 10)
    assert sessions.shape == Shape(16, 512)
    arrange(sessions, {16: 5})
    grow(sessions, 16, 5)
    assert sessions.stored(0) == "state of 0"
    arrange(sessions, {0: 11})
    grow(sessions, 0, 11)
    assert sessions.shape == Shape(16, 512)
    assert sessions.to_store({1: 11}) == []
    arrange(sessions, {1: 11})
    assert sessions.shape == Shape(32, 256)


def test_no_more_is_stored_than_there_is_room_for() -> None:
    """An eighth of 1,024 positions."""
    sessions = slotted()
    for session in range(4):
        grow(sessions, session, 100)
    assert sessions.to_store({8: 5, 9: 5}) == [0]
