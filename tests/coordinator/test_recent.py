from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.recent import Recent


@given(st.lists(st.integers(0, 9)), st.integers(1, 5))
def test_those_seen_last_are_remembered(seen: list[int], most: int) -> None:
    recent, expected = Recent[int, list[int]](list, most), dict[int, list[int]]()
    for time, key in enumerate(seen):
        recent[key].append(time)
        expected[key] = [*expected.pop(key, []), time]
        expected = dict(list(expected.items())[-most:])
        assert len(recent) == len(expected)
    for key, times in reversed(expected.items()):  # the last one first: looking changes no other's place
        assert recent[key] == times


def test_what_is_drained_is_forgotten() -> None:
    recent = Recent[str, int](int, 2)
    for key in ("anna", "ben", "cleo"):
        recent[key] += 1
    assert recent.drain() == {"ben": 1, "cleo": 1}
    assert (len(recent), recent.drain()) == (0, {})
