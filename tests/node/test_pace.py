import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.node.pace import Pace


def test_a_session_generates_until_its_next_token_is_overdue() -> None:
    pace = Pace()
    assert pace.generating(0.0) == set()
    pace.note(1, 10.0)
    pace.note(2, 10.5)
    assert pace.generating(11.0) == {1, 2}
    assert pace.generating(11.2) == {2}
    assert pace.generating(12.0) == set()


def test_a_slow_session_is_given_longer() -> None:
    pace = Pace()
    pace.note(1, 0.0)
    pace.note(1, 4.0)
    assert pace.generating(12.9) == {1}
    assert pace.generating(13.1) == set()


def test_a_session_that_comes_back_after_a_pause_begins_anew() -> None:
    pace = Pace()
    pace.note(1, 0.0)
    pace.note(1, 500.0)
    assert pace.generating(501.5) == set()


def test_a_closed_session_is_forgotten() -> None:
    pace = Pace()
    pace.note(1, 0.0)
    pace.forget(1)
    pace.forget(2)
    assert pace.generating(0.0) == set()


def test_the_next_token_is_due_after_the_interval_of_a_quiet_time() -> None:
    pace = Pace()
    for now in (0.0, 4.0, 8.0):
        pace.note(1, now)
    assert pace.spare_s({1}, 9.0) == 3.0
    assert pace.spare_s({1}, 13.0) == 0.0
    assert pace.spare_s(set(), 9.0) == 0.0
    pace.note(2, 9.0)
    assert pace.spare_s({1, 2}, 9.0) == 0.0  # nothing is known of it yet


def test_prompts_do_not_earn_time_by_making_others_slower() -> None:
    pace = Pace()
    pace.note(1, 0.0)
    pace.note(1, 1.0)
    for step in range(1, 500):
        pace.disturb(2.0 * step)
        pace.note(1, 1.0 + 2.0 * step)
    now = 1.0 + 2.0 * 499
    assert pace.spare_s({1}, now) == 1.0
    for step in range(1, 500):
        pace.note(1, now + 2.0 * step)
    assert 1.9 < pace.spare_s({1}, now + 2.0 * 499) <= 2.0


def test_steps_that_come_in_bursts_are_judged_from_burst_to_burst() -> None:
    """As guesses do that are sent ahead of the answers."""
    pace = Pace()
    for burst in (0.0, 4.0, 8.0):
        for step in range(5):
            pace.note(1, burst + step / 1000, waits=step > 0)
    assert pace.generating(16.9) == {1}
    assert pace.generating(17.1) == set()
    assert pace.spare_s({1}, 9.0) == 3.0


def test_a_burst_whose_steps_do_not_meet_at_the_node_is_known_by_the_pause_after_it() -> None:
    pace = Pace()
    for burst in range(200):
        for step in range(3):
            pace.note(1, 0.4 * burst + 0.02 * step)
    now = 0.4 * 199 + 0.05
    assert pace.generating(now + 1.7) == {1}
    assert 0.25 < pace.spare_s({1}, now) <= 0.35


def test_a_session_that_was_slow_for_a_while_is_soon_known_to_be_quick() -> None:
    pace = Pace()
    for now in (0.0, 8.0, 8.9, 9.8, 10.7, 11.6):
        pace.note(1, now)
    assert pace.spare_s({1}, 11.6) == pytest.approx(0.9)


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), min_size=1, max_size=60))
def test_whatever_comes_a_session_generates_for_a_second_and_is_due_within_what_was_seen(
    steps: list[tuple[float, bool]],
) -> None:
    pace, now = Pace(), 0.0
    for pause, waits in steps:
        now += pause
        pace.note(1, now, waits=waits)
        assert pace.generating(now + 0.9) == {1}
        assert 0.0 <= pace.spare_s({1}, now) <= now
