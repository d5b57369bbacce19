import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.members import limits as module
from potluck.coordinator.members.limits import Limits


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
