from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.sessions.claim import Rank, weight_of
from potluck.types import Priority


def test_the_class_is_what_is_asked_for_but_the_anonymous_come_last() -> None:
    assert [Rank.of(priority) for priority in Priority] == [Rank.INTERACTIVE, Rank.BATCH]
    assert {Rank.of(priority, anonymous=True) for priority in Priority} == {Rank.ANONYMOUS}
    assert sorted(Rank) == [Rank.INTERACTIVE, Rank.BATCH, Rank.ANONYMOUS]


def test_weights_begin_with_one_and_end_with_four() -> None:
    assert [weight_of(credits) for credits in (-5, 0, 9e6, 1e30)] == [1, 1, 2, 4]


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_more_credits_never_weigh_less(one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert 1 <= weight_of(less) <= weight_of(more) <= 4
