import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.audits import lottery as module
from potluck.coordinator.audits.lottery import FIRST_SESSIONS, FREE_ROWS, Lottery

RATE = 0.02


def seasoned(rate: float = RATE, seed: int = 0) -> Lottery:
    """A lottery whose node "a" is no newcomer any more."""
    lottery = Lottery(rate, random.Random(seed).random)
    while lottery.draw(b"a", 0):
        pass
    return lottery


def audit(lottery: Lottery, before: int) -> int:
    """Draw, and audit what was drawn."""
    rows = lottery.draw(b"a", before)
    if rows:
        lottery.audited(b"a", before + rows)
    return rows


def test_a_newcomers_first_sessions_are_all_audited_and_then_none_before_it_has_worked() -> None:
    lottery = Lottery(RATE, random.Random(0).random)
    drawn = [lottery.draw(b"a", 0) for _ in range(10)]
    assert all(rows >= FREE_ROWS for rows in drawn[:FIRST_SESSIONS])
    assert drawn[FIRST_SESSIONS:] == [0] * (10 - FIRST_SESSIONS)


def test_at_rate_nought_nobody_is_audited() -> None:
    lottery = Lottery(0.0, random.Random(0).random)
    lottery.watch(b"a")
    lottery.redraw(b"a")
    for _ in range(1000):
        lottery.stepped(b"a", 1)
    assert lottery.draw(b"a", 0) == 0


@given(st.integers(0, 2**32), st.floats(0.01, 1.0))
def test_no_node_goes_unseen_for_long(seed: int, rate: float) -> None:
    lottery = seasoned(rate, seed)
    for _ in range(20):
        steps = 0
        while not lottery.draw(b"a", 0):
            lottery.stepped(b"a", 1)
            steps += 1
        assert 1.28 / rate <= steps + 1e-9 <= 1.92 / rate + 1


@given(st.integers(0, 2**32))
def test_long_audits_are_paid_for_by_steps(seed: int) -> None:
    lottery, audits, paid = seasoned(seed=seed), list[int](), 0.0
    for _ in range(1000):
        lottery.stepped(b"a", 2)
        paid += 20 * RATE
        audits.append(max(0, audit(lottery, 0) - FREE_ROWS))
        assert sum(audits) - max(audits) <= paid


def test_every_position_has_its_chance() -> None:
    lottery, longest = seasoned(), 0
    for _ in range(200_000):
        lottery.stepped(b"a", 1)
        longest = max(longest, audit(lottery, 0))
    assert longest > 500


def test_a_last_stage_behind_a_long_prompt_is_audited_again_once_that_is_paid_back() -> None:
    lottery = seasoned()
    for _ in range(10_000):
        lottery.stepped(b"a", 1)
    assert audit(lottery, 900) > 0
    for _ in range(1000):
        lottery.stepped(b"a", 1)
    assert audit(lottery, 900) == 0
    assert 0 < audit(lottery, 0) <= FREE_ROWS
    for _ in range(1000):
        lottery.stepped(b"a", 1000)
    assert audit(lottery, 900) > 0


@pytest.mark.parametrize(("prompt", "steps"), [(20, 100), (60, 200), (200, 300)])
def test_a_last_stage_behind_a_prompt_is_audited_again_and_again(prompt: int, steps: int) -> None:
    """Once in about so many of its steps."""
    lottery, audits = seasoned(), 0
    for _ in range(1000):
        audits += audit(lottery, prompt - 1) > 0
        lottery.stepped(b"a", prompt)
        for _ in range(50):
            lottery.stepped(b"a", 1)
    assert 0.5 < audits * steps / 50_000 < 2


def test_a_newcomers_first_sessions_are_audited_however_long_their_prompts_are() -> None:
    lottery = Lottery(RATE, random.Random(0).random)
    assert all(audit(lottery, 800) > 0 for _ in range(FIRST_SESSIONS))
    assert audit(lottery, 800) == 0


def test_a_suspects_next_sessions_are_all_audited() -> None:
    lottery = seasoned()
    lottery.watch(b"a", 2)
    assert [bool(lottery.draw(b"a", 0)) for _ in range(3)] == [True, True, False]


def test_an_audit_that_came_to_nothing_is_drawn_again() -> None:
    lottery = seasoned()
    lottery.redraw(b"a")
    assert [bool(lottery.draw(b"a", 0)) for _ in range(2)] == [True, False]


def test_a_node_that_was_not_seen_for_long_is_a_newcomer_again(monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_KNOWN", 2)
    lottery = seasoned()
    for key in (b"b", b"a", b"c"):
        lottery.stepped(key, 1)
    assert lottery.draw(b"a", 0) == 0
    for key in (b"b", b"c"):
        lottery.stepped(key, 1)
    assert lottery.draw(b"a", 0) > 0


@pytest.mark.parametrize("seed", range(3))
def test_nodes_are_drawn_apart(seed: int) -> None:
    lottery = seasoned(seed=seed)
    for _ in range(10_000):
        lottery.stepped(b"b", 1)
    assert lottery.draw(b"a", 0) == 0
    assert lottery.draw(b"b", 0) > 0
