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
