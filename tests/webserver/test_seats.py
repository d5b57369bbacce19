"""No clock: the tests say what time it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.webserver.seats import Seat, Seats, household


def full(seats: Seats, address: str, count: int, now: float = 0.0) -> list[Seat]:
    taken = [seats.take(address, now) for _ in range(count)]
    assert all(gone is None for _, gone in taken)
    return [seat for seat, _ in taken]


def test_the_oldest_stranger_of_a_household_gives_way_to_a_new_one() -> None:
    seats = Seats(100, 10, 3)
    [oldest, *_] = full(seats, "192.0.2.1", 3)
    full(seats, "192.0.2.2", 3)
    _, gone = seats.take("192.0.2.1", 5.0)
    assert gone is oldest


def test_a_stranger_that_has_only_just_come_stays_and_the_newcomer_goes() -> None:
    seats = Seats(100, 10, 3)
    full(seats, "192.0.2.1", 3)
    newcomer, gone = seats.take("192.0.2.1", 0.5)
    assert gone is newcomer


def test_a_large_crowd_gives_way_to_another_household_at_once() -> None:
    seats = Seats(100, 4, 4)
    [oldest, *_] = full(seats, "192.0.2.1", 4)
    _, gone = seats.take("192.0.2.2", 0.1)
    assert gone is oldest


def test_with_too_many_strangers_the_largest_crowd_gives_way() -> None:
    seats = Seats(100, 6, 5)
    [oldest, *_] = full(seats, "192.0.2.1", 4)
    full(seats, "192.0.2.2", 2)
    _, gone = seats.take("192.0.2.3", 5.0)
    assert gone is oldest


def test_whoever_has_proven_who_it_is_never_gives_way() -> None:
    seats = Seats(4, 3, 3)
    for seat in full(seats, "192.0.2.1", 3):
        seats.vouch(seat)
    full(seats, "192.0.2.1", 1)
    newcomer, gone = seats.take("192.0.2.1", 0.5)
    assert gone is newcomer
    seats.leave(newcomer)
    assert len(seats) == 4


def test_an_answered_request_makes_a_stranger_again() -> None:
    seats = Seats(100, 10, 1)
    [seat] = full(seats, "192.0.2.1", 1)
    seats.vouch(seat)
    full(seats, "192.0.2.1", 1, now=3.0)
    seats.doubt(seat, 4.0)
    assert len(seats) == 2
    assert seat.since == 4.0


def test_behind_a_proxy_people_are_counted_by_their_own_addresses() -> None:
    seats = Seats(100, 10, 2, is_shared=lambda address: address == "10.0.0.1")
    through = full(seats, "10.0.0.1", 5)
    assert seats.move(through[0], "192.0.2.1", 2.0) is None
    assert seats.move(through[1], "192.0.2.1", 2.0) is None
    assert seats.move(through[2], "192.0.2.1", 2.0) is through[0]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "", True),
        ("unknown", "_hidden", True),
    ],
)
def test_addresses_of_one_household_count_together(one: str, other: str, same: bool) -> None:
    assert (household(one) == household(other)) == same


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["take", "vouch", "doubt", "move", "leave"]), st.integers(0, 30)), max_size=60
)


@given(ACTIONS)
def test_no_limit_is_ever_exceeded(actions: list[tuple[str, int]]) -> None:
    seats, here, vouched, now = Seats(8, 5, 3), [], set(), 0.0
    for action, number in actions:
        now += number / 10
        gone = None
        if action == "take":
            seat, gone = seats.take(f"192.0.2.{number % 4}", now)
            here.append(seat)
        elif here:
            seat = here[number % len(here)]
            match action:
                case "vouch":
                    seats.vouch(seat)
                    vouched.add(seat)
                case "doubt" if sum(one not in vouched for one in here) < 3:
                    seats.doubt(seat, now)
                    vouched.discard(seat)
                case "move" if seat not in vouched:
                    gone = seats.move(seat, f"192.0.2.{number % 4}", now)
                case "leave":
                    gone = seat
        if gone is not None:
            assert gone not in vouched or action == "leave"
            seats.leave(gone)
            here.remove(gone)
            vouched.discard(gone)
        strangers = [one for one in here if one not in vouched]
        assert len(seats) == len(here) <= 8
        assert len(strangers) <= 5
        assert all(sum(one.household == f"192.0.2.{place}" for one in strangers) <= 3 for place in range(4))
