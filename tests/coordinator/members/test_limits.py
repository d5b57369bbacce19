import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.members import limits as module
from potluck.coordinator.members.limits import Limits, SharedLimits, take_of, taken_of


def test_a_minutes_requests_come_at_once_and_then_one_by_one() -> None:
    limits = Limits()
    assert [limits.wait_s("anna", 6, 0.0) for _ in range(6)] == [0.0] * 6
    assert limits.wait_s("anna", 6, 0.0) == pytest.approx(10.0)
    assert limits.wait_s("anna", 6, 4.0) == pytest.approx(6.0)  # being refused costs nothing
    assert limits.wait_s("anna", 6, 10.0) == 0.0
    assert limits.wait_s("anna", 6, 10.0) > 0.0


def test_callers_do_not_share() -> None:
    limits = Limits()
    assert limits.wait_s("anna", 1, 0.0) == 0.0
    assert limits.wait_s("anna", 1, 0.0) > 0.0
    assert limits.wait_s("ben", 1, 0.0) == 0.0


@given(st.integers(1, 1000), st.lists(st.floats(0.0, 30.0), min_size=1, max_size=200))
def test_never_more_than_the_rate_allows_and_whoever_waits_as_told_may(rate: int, pauses: list[float]) -> None:
    limits, now = Limits(), 0.0
    for allowed, pause in enumerate(pauses, 1):
        now += pause
        wait_s = limits.wait_s("anna", rate, now)
        if wait_s:
            now += wait_s
            assert limits.wait_s("anna", rate, now) == 0.0
        assert allowed <= rate + now * rate / 60 + 1e-6


def test_a_flood_of_addresses_is_not_remembered_but_whoever_goes_on_asking_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_KNOWN", 10)
    limits = Limits()
    assert limits.wait_s("anna", 1, 0.0) == 0.0
    for number in range(1000):
        limits.wait_s(f"address {number}", 60, 0.0)
        assert limits.wait_s("anna", 1, 0.0) > 0.0
    assert len(limits._full) == 10
    assert limits.wait_s("address 999", 1, 0.0) > 0.0
    assert limits.wait_s("address 0", 1, 0.0) == 0.0


def test_a_look_at_what_is_left_counts_nothing() -> None:
    limits = Limits()
    assert [limits.left_s("anna", 2, 0.0) for _ in range(5)] == [0.0] * 5
    assert [limits.wait_s("anna", 2, 0.0) for _ in range(2)] == [0.0] * 2
    assert limits.left_s("anna", 2, 0.0) == pytest.approx(30.0)
    assert limits.left_s("anna", 2, 30.0) == 0.0


def test_what_was_sent_elsewhere_counts_and_is_a_debt_of_a_minute_at_most() -> None:
    limits = Limits()
    limits.take("anna", 50.0, 0.0)
    assert [limits.wait_s("anna", 6, 0.0) for _ in range(2)] == [0.0, pytest.approx(10.0)]
    for _ in range(100):
        limits.take("anna", 50.0, 0.0)
    assert limits.left_s("anna", 6, 0.0) == pytest.approx(70.0)
    assert limits.wait_s("anna", 6, 70.0) == 0.0
    assert limits.wait_s("ben", 6, 0.0) == 0.0


def test_what_was_counted_is_told_once_and_refusals_are_not() -> None:
    limits = SharedLimits()
    for _ in range(5):
        limits.wait_s("anna", 4, 0.0)
    limits.wait_s("ben", 60, 0.0)
    limits.take("cleo", 10.0, 0.0)
    assert limits.taken() == {"anna": 60.0, "ben": 1.0}
    assert limits.taken() == {}


@given(st.integers(1, 100), st.lists(st.tuples(st.integers(0, 1), st.floats(0.0, 3.0)), max_size=300))
def test_two_that_tell_each_other_allow_what_one_does_and_what_they_had_not_told(
    rate: int, asked: list[tuple[int, float]]
) -> None:
    """They tell each other every second; until then each allows what it does not know of."""
    two = [{"key": SharedLimits()}, {"key": SharedLimits()}]
    now = told = 0.0
    allowed = untold = most_untold = 0
    for number, pause in asked:
        now += pause
        if now - told >= 1.0:
            told, untold = now, 0
            news = [taken_of(limits) for limits in two]
            for limits, taken in zip(two, reversed(news), strict=True):
                take_of(limits, taken, now)
        if not two[number]["key"].wait_s("anna", rate, now):
            allowed += 1
            untold += 1
            most_untold = max(most_untold, untold)
        assert allowed <= rate + now * rate / 60 + most_untold + 1e-6


def test_what_nobody_asks_for_takes_a_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_KNOWN", 10)
    limits = SharedLimits()
    for number in range(1000):
        limits.wait_s(f"address {number}", 60, 0.0)
    assert list(limits.taken()) == [f"address {number}" for number in range(990, 1000)]
