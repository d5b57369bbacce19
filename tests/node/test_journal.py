import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from potluck.node.journal import Journal

WIDTH = 2
ROW_BYTES = 4 * WIDTH


def rows(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.float32)[:, None].repeat(WIDTH, axis=1)


def noted(journal: Journal, position: int, count: int) -> np.ndarray:
    rows = journal.rows(1, position, count)
    assert rows is not None
    return rows


def test_what_was_noted_in_pieces_comes_back_in_others() -> None:
    journal = Journal(WIDTH, 1000)
    journal.note(1, 0, rows(0, 3))
    journal.note(1, 3, rows(3, 2))
    assert np.array_equal(noted(journal, 1, 3), rows(1, 3))
    assert np.array_equal(noted(journal, 0, 5), rows(0, 5))


def test_what_is_not_there_is_none() -> None:
    journal = Journal(WIDTH, 1000)
    journal.note(1, 0, rows(0, 3))
    assert [journal.rows(*asked) for asked in [(1, 0, 4), (1, 3, 1), (1, -1, 1), (1, 0, 0), (2, 0, 1)]] == [None] * 5


def test_positions_that_are_run_again_replace_what_was_there() -> None:
    journal = Journal(WIDTH, 1000)
    journal.note(1, 0, rows(0, 5))
    journal.note(1, 2, rows(70, 1))
    assert np.array_equal(noted(journal, 0, 3), [[0, 0], [1, 1], [70, 70]])
    assert journal.rows(1, 3, 1) is None


def test_a_session_whose_beginning_is_missing_is_not_noted() -> None:
    journal = Journal(WIDTH, 1000)
    journal.note(1, 4, rows(4, 1))
    assert journal.rows(1, 4, 1) is None
    journal.note(1, 0, rows(0, 1))
    journal.note(1, 2, rows(2, 1))
    assert journal.rows(1, 0, 1) is None


def test_a_full_journal_forgets_the_session_noted_longest_ago() -> None:
    journal = Journal(WIDTH, 6 * ROW_BYTES)
    for session in (1, 2):
        journal.note(session, 0, rows(0, 2))
    journal.note(1, 2, rows(2, 1))
    journal.note(3, 0, rows(0, 2))
    assert [journal.rows(session, 0, 2) is not None for session in (1, 2, 3)] == [True, False, True]


def test_a_session_longer_than_the_journal_leaves_it_empty() -> None:
    journal = Journal(WIDTH, 2 * ROW_BYTES)
    journal.note(1, 0, rows(0, 3))
    assert journal.rows(1, 0, 1) is None
    journal.note(2, 0, rows(0, 2))
    assert journal.rows(2, 0, 2) is not None


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6), st.integers(1, 4), st.booleans()), max_size=30))
def test_whatever_happens_it_gives_what_was_sent_last_or_nothing(events: list[tuple[int, int, int, bool]]) -> None:
    journal, sent, stamp = Journal(WIDTH, 8 * ROW_BYTES), dict[int, list[int]](), 0
    for session, position, count, closes in events:
        if closes:
            journal.close(session)
            sent.pop(session, None)
            continue
        held = sent.setdefault(session, [])
        position = min(position, len(held))
        sent[session] = held[:position] + list(range(stamp, stamp + count))
        journal.note(session, position, rows(stamp, count))
        stamp += count
    for session, values in sent.items():
        found = journal.rows(session, 0, len(values))
        assert found is None or found[:, 0].tolist() == values
    total = sum(len(values) for session, values in sent.items() if journal.rows(session, 0, len(values)) is not None)
    assert total <= 8
