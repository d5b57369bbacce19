"""The shelf holds what its account may have, and nothing for longer than it should."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.http.doors.shelf import KEPT_S, MOST_BYTES, MOST_IN_ALL, MOST_KEPT, MOST_OF_ONE, Kept, Shelf

SMALL = Kept(b"{}", b"[]")
QUARTER = Kept(b"x" * MOST_OF_ONE, b"")


def test_a_response_is_its_accounts_until_it_is_old() -> None:
    shelf = Shelf()
    shelf.put("ann", "a", SMALL, 5)
    assert shelf.get("ann", "a", 4 + KEPT_S) == SMALL
    assert shelf.get("bob", "a", 6) is None
    assert not shelf.take("bob", "a")
    assert shelf.get("ann", "a", 5 + KEPT_S) is None
    assert not shelf.take("ann", "a")


def test_what_is_taken_is_gone() -> None:
    shelf = Shelf()
    shelf.put("ann", "a", SMALL, 0)
    assert shelf.take("ann", "a")
    assert shelf.get("ann", "a", 0) is None


def test_the_oldest_make_room_for_the_newest_of_their_account() -> None:
    shelf = Shelf()
    shelf.put("bob", "0", SMALL, 0)
    for number in range(MOST_KEPT + 1):
        shelf.put("ann", str(number), SMALL, number)
    assert shelf.get("ann", "0", MOST_KEPT) is None
    assert shelf.get("ann", "1", MOST_KEPT) == SMALL
    assert shelf.get("bob", "0", MOST_KEPT) == SMALL


def test_bytes_are_bounded() -> None:
    shelf, names = Shelf(), [*map(str, range(MOST_BYTES // MOST_OF_ONE + 1))]
    for name in names:
        assert shelf.put("ann", name, QUARTER, 0)
    assert [shelf.get("ann", name, 0) is None for name in names] == [True, *[False] * (len(names) - 1)]
    assert not shelf.put("ann", "large", Kept(QUARTER.response, b"x"), 0)
    assert shelf.get("ann", "large", 0) is None
    assert shelf.get("ann", names[1], 0) == QUARTER


def test_bytes_of_all_accounts_are_bounded() -> None:
    shelf = Shelf()
    accounts = MOST_IN_ALL // MOST_OF_ONE + 1
    for account in range(accounts):
        shelf.put(account, "a", QUARTER, 0)
    assert [shelf.get(account, "a", 0) is None for account in range(accounts)] == [True, *[False] * (accounts - 1)]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from(("put", "take")))))
def test_its_counts_are_those_of_what_it_holds(steps: list[tuple[str, str, str]]) -> None:
    shelf, names = Shelf(), [(whose, name) for whose in "ab" for name in "xyz"]
    for now, (whose, name, what) in enumerate(steps):
        if what == "put":
            shelf.put(whose, name, SMALL, now)
        elif what == "take":
            shelf.take(whose, name)
    held = [whose for whose, name in names if shelf.get(whose, name, len(steps)) is not None]
    counts = {whose: held.count(whose) for whose in {*held}}
    assert {whose: len(names) for whose, names in shelf._names.items()} == counts
    assert dict(shelf._bytes) == {whose: SMALL.size * count for whose, count in counts.items()}
    assert shelf._all_bytes == SMALL.size * len(held)
