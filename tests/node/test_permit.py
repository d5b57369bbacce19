import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.errors import PotluckError
from potluck.node.permit import BUSY_CORES, QUIET_S, Hours, Permit
from potluck.types import PauseReason

NIGHT = Hours.parse("22-07")
NOON = 12 * 60


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("22-07", Hours(22 * 60, 7 * 60)),
        ("9-17", Hours(9 * 60, 17 * 60)),
        ("22:30-6:15", Hours(22 * 60 + 30, 6 * 60 + 15)),
        ("0-24", Hours(0, 24 * 60)),
    ],
)
def test_hours_as_an_owner_writes_them(text: str, hours: Hours) -> None:
    assert Hours.parse(text) == hours


@pytest.mark.parametrize("text", ["", "22", "22-", "22-22", "25-3", "24-3", "3-25", "3:60-4", "1-24:01", "-1-3"])
def test_what_are_no_hours(text: str) -> None:
    with pytest.raises(PotluckError, match="write it as 22-07"):
        Hours.parse(text)


@pytest.mark.parametrize(
    ("minute", "within"),
    [(0, True), (7 * 60 - 1, True), (7 * 60, False), (NOON, False), (1319, False), (1320, True)],
)
def test_a_night_spans_midnight(minute: int, within: bool) -> None:
    assert (minute in NIGHT) == within
    assert Permit(NIGHT).refusal(minute, 0.0, 0.0) == (None if within else PauseReason.HOURS)


@given(st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 1439))
def test_hours_and_the_others_are_the_whole_day(first: int, end: int, minute: int) -> None:
    if first != end:
        assert (minute in Hours(first, end)) != (minute in Hours(end, first))


def test_without_conditions_it_may_always_work() -> None:
    assert Permit().refusal(NOON, 64.0, 0.0) is None


def test_a_machine_in_use_is_left_at_once_and_taken_after_a_quiet_minute() -> None:
    permit = Permit(idle_only=True)
    assert permit.refusal(NOON, 0.05, 10.0) is None
    assert permit.refusal(NOON, 1.0, 10.5) is PauseReason.BUSY
    assert permit.refusal(NOON, 0.0, 11.0) is PauseReason.BUSY
    assert permit.refusal(NOON, 0.0, 10.4 + QUIET_S) is PauseReason.BUSY
    assert permit.refusal(NOON, 0.0, 10.5 + QUIET_S) is None


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, BUSY_CORES, 3.0]), st.floats(0.5, 40.0)), max_size=30))
def test_an_idle_only_node_never_works_within_a_minute_of_use(looks: list[tuple[float, float]]) -> None:
    permit, now, used = Permit(idle_only=True), 0.0, -QUIET_S
    for busy, pause in looks:
        now += pause
        used = now if busy >= BUSY_CORES else used
        assert (permit.refusal(NOON, busy, now) is None) == (now - used >= QUIET_S)


def test_what_the_owner_says_by_hand_comes_first() -> None:
    permit = Permit(NIGHT, idle_only=True)
    permit.paused = True
    assert permit.refusal(0, 0.0, 0.0) is PauseReason.OWNER
    assert permit.refusal(NOON, 5.0, 1.0) is PauseReason.OWNER
    permit.paused = False
    assert permit.refusal(NOON, 0.0, 2.0) is PauseReason.HOURS
    assert permit.refusal(0, 0.0, 2.0) is PauseReason.BUSY  # it was in use meanwhile
    assert permit.refusal(0, 0.0, 1.0 + QUIET_S) is None


def test_on_battery_it_pauses_unless_its_owner_says_otherwise() -> None:
    assert Permit().refusal(NOON, 0.0, 0.0, battery=True) is PauseReason.BATTERY
    assert Permit().refusal(NOON, 0.0, 1.0, battery=False) is None
    assert Permit(on_battery=True).refusal(NOON, 0.0, 0.0, battery=True) is None
    assert Permit(NIGHT).refusal(NOON, 0.0, 0.0, battery=True) is PauseReason.HOURS


def test_its_reason_is_a_sentence() -> None:
    assert f"Pausing: {PauseReason.BATTERY}." == "Pausing: it runs on battery."
