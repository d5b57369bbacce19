"""Which coordinator of a fleet a node dials next."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from potluck.errors import WireError
from potluck.node.fleet import KnownFleet
from potluck.types import Coordinator

HOME = "http://10.0.0.1:8470"
B, C, D = (Coordinator(f"http://10.0.0.{place}:8470", bytes([place]) * 32) for place in (2, 3, 4))


def fleet(*told: Coordinator, home: str = HOME) -> KnownFleet:
    return KnownFleet(home, told, lambda: 0.0)


def dialled(known: KnownFleet, times: int) -> list[tuple[str, bool]]:
    """The URLs that are dialled next if all fail, each with whether it is waited before."""
    return [(waits, known.url)[::-1] for waits in (known.next() for _ in range(times))]


def test_without_others_the_same_is_dialled_again_and_again() -> None:
    known = fleet()
    assert (known.url, known.other, known.is_elsewhere) == (HOME, None, False)
    assert dialled(known, 3) == [(HOME, True)] * 3


def test_the_others_are_tried_in_turn_before_it_is_waited() -> None:
    known = fleet(B, C)
    around = [(HOME, True), (B.url, False), (C.url, False)]
    assert dialled(known, 6) == around * 2
    assert (known.other, known.is_elsewhere) == (C, True)


def test_where_it_serves_is_dialled_first_and_the_owner_s_stays() -> None:
    known = fleet(B, C)
    assert known.learn([C]) is True
    known.next()
    known.next()
    known.settle()
    assert (known.url, known.is_elsewhere) == (C.url, False)
    assert known.learn([B]) is True
    assert known.told == (C, B)
    assert dialled(known, 4) == [(C.url, True), (HOME, False), (B.url, False), (C.url, True)]


def test_nodes_of_a_lost_coordinator_spread() -> None:
    chance = Random(1).random
    first = Counter[str]()
    for _ in range(300):
        known = KnownFleet(HOME, [B, C, D], chance)
        known.next()
        known.next()
        first[known.url] += 1
    assert set(first) == {B.url, C.url, D.url}
    assert first[B.url] > first[C.url] > first[D.url] > 5


def test_who_is_no_longer_named_is_forgotten() -> None:
    known = fleet(B, C)
    assert known.learn([B, C]) is False
    assert known.learn([]) is True
    assert known.told == ()


def test_nobody_else_describes_the_owner_s_coordinator_or_one_twice() -> None:
    other = Coordinator(B.url, bytes(32))
    known = fleet(Coordinator(f"{HOME}/path", bytes(32)), B, other)
    assert known.told == (B,)
    assert known.send(Coordinator(HOME, bytes(32)))
    assert (known.url, known.other) == (HOME, None)
    assert known.send(other)
    assert known.other == B


def test_the_key_of_the_one_that_it_is_with_is_not_changed_by_that_one() -> None:
    known = fleet()
    known.send(B)
    known.settle()
    known.learn([Coordinator(B.url, bytes(32)), C])
    assert (known.other, known.told) == (B, (B, C))


@pytest.mark.parametrize(
    ("home", "there", "goes"),
    [
        (HOME, "http://127.0.0.1:1", False),
        (HOME, "http://localhost:1", False),
        ("http://127.0.0.1:2", "http://127.0.0.1:1", True),
        ("https://a.example", "http://b.example", False),
        ("https://a.example", "https://b.example", True),
        (HOME, "https://b.example", True),
    ],
)
def test_a_node_is_not_sent_just_anywhere(home: str, there: str, goes: bool) -> None:
    other = Coordinator(there, bytes(32))
    assert fleet(other, home=home).told == ((other,) if goes else ())
    known = fleet(home=home)
    assert known.send(other) is goes
    assert known.url == (there if goes else home)


def test_who_is_sent_goes_there_a_few_times_and_comes_back() -> None:
    known = fleet(B)
    known.settle()
    assert known.send(C)
    assert known.url == C.url
    assert dialled(known, 4) == [(C.url, True), (C.url, True), (HOME, True), (B.url, False)]


def test_who_is_refused_there_comes_back_at_once() -> None:
    known = fleet()
    known.settle()
    known.send(C)
    known.give_up()
    assert dialled(known, 1) == [(HOME, True)]


@pytest.mark.parametrize("wrong", [Coordinator("b", bytes(32)), Coordinator(B.url, b"")])
def test_what_cannot_be_right_is_refused(wrong: Coordinator) -> None:
    known = fleet(B)
    with pytest.raises(WireError):
        known.learn([C, wrong])
    with pytest.raises(WireError):
        known.send(wrong)
    assert known.told == (B,)
