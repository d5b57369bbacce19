"""How many guesses a session may have under way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.planning.guessing import MOST_AHEAD, Pass, Share, Trial, gain, most_ahead

SHARES = st.floats(0, 1)
SECONDS = st.floats(1e-4, 10)
FAR = Pass(pass_s=0.130, row_s=0.010, sessions=1)


def test_better_guesses_go_further_ahead() -> None:
    assert [most_ahead(share, FAR) for share in (0.0, 0.02, 0.5, 0.7, 0.8, 0.9, 1.0)] == [0, 0, 4, 7, 12, 12, 12]


def test_more_sessions_leave_less_room_until_there_is_none() -> None:
    rooms = [most_ahead(0.9, Pass(pass_s=0.130, row_s=0.010, sessions=count)) for count in (1, 2, 4, 8, 16)]
    assert rooms == [12, 6, 2, 1, 0]


@pytest.mark.parametrize("sessions", [2, 3, 16])
def test_near_nodes_that_as_many_sessions_keep_busy_get_no_guesses(sessions: int) -> None:
    assert most_ahead(0.99, Pass(pass_s=0.021, row_s=0.010, sessions=sessions)) == 0


def test_one_session_alone_on_near_nodes_gives_the_idle_one_work() -> None:
    assert most_ahead(0.8, Pass(pass_s=0.021, row_s=0.010, sessions=1)) == 1


def test_nothing_is_known_before_the_first_pass() -> None:
    assert most_ahead(0.9, Pass(pass_s=0.0, row_s=0.0, sessions=1)) == 0


@given(SHARES, SECONDS, SECONDS, st.integers(1, 50))
def test_guesses_under_way_are_bounded_and_pay(share: float, pass_s: float, row_s: float, sessions: int) -> None:
    now = Pass(pass_s=pass_s, row_s=row_s, sessions=sessions)
    ahead = most_ahead(share, now)
    assert 0 <= ahead <= MOST_AHEAD
    assert ahead < max(now.room, 1)
    if ahead:
        assert gain(min(share, 0.999), now, ahead) > 1


def test_a_share_follows_the_latest_guesses() -> None:
    share = Share(0.7, 0.1)
    for _ in range(60):
        share.note(False)
    assert most_ahead(share.value, FAR) == 0
    for _ in range(60):
        share.note(True)
    assert most_ahead(share.value, FAR) == 12


def test_a_small_model_that_makes_tokens_slower_rests_and_then_tries_again() -> None:
    trial = Trial()
    tried = rested = 0
    for _ in range(20_000):
        if trial.is_on:
            trial.note(0.040, 0.020)
            tried += 1
        else:
            trial.note_rest()
            rested += 1
    assert 16 < tried < 0.02 * rested
    assert rested > 15_000


def test_a_small_model_that_pays_goes_on() -> None:
    trial = Trial()
    for token in range(1000):
        assert trial.is_on
        trial.note(0.4 if token % 5 == 0 else 0.01, 0.130)  # some tokens take longer, but they bring others


def test_one_bad_while_costs_one_rest() -> None:
    trial = Trial()
    for _ in range(2):
        for _ in range(16):
            trial.note(1.0, 0.5)
        assert not trial.is_on
        rest = 0
        while not trial.is_on:
            trial.note_rest()
            rest += 1
        assert rest == 512
        for _ in range(16):
            trial.note(0.1, 0.5)
        assert trial.is_on
