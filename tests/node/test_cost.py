"""What a forward pass costs, as far as earlier ones show it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.node.cost import Cost
from potluck.types import MAX_STEP_ROWS, Speed

SPEED = Speed(decode_s=3.0, prefill_s=1 + 2 / MAX_STEP_ROWS)
"""Two seconds for a pass and one for each row."""


def test_what_was_measured_at_first_tells_both_parts() -> None:
    cost = Cost(SPEED)
    assert [cost.seconds(rows) for rows in (1, 8, 64)] == pytest.approx([3, 10, 66])


@pytest.mark.parametrize(("seconds", "rows"), [(0.0, 1), (2.5, 1), (3.5, 1), (10.01, 8), (66.01, 64)])
def test_as_many_rows_as_there_is_time_for_and_never_none(seconds: float, rows: int) -> None:
    assert Cost(SPEED).rows_within(seconds) == rows


def test_passes_of_several_sizes_show_both_parts() -> None:
    draw, cost = random.Random(1), Cost(SPEED)
    for _ in range(400):
        rows = draw.choice([1, 2, 8])
        cost.note(rows, (0.5 + 4 * rows) * draw.uniform(0.9, 1.1))
    assert cost.seconds(0) < 1.2
    assert cost.seconds(8) == pytest.approx(32.5, rel=0.1)


def test_passes_of_one_size_are_foretold_and_leave_the_proportion() -> None:
    cost = Cost(SPEED)
    for _ in range(50):
        cost.note(1, 6.0)
    assert cost.seconds(1) == pytest.approx(6)
    assert cost.seconds(0) == pytest.approx(4, rel=0.15)


def test_a_single_slow_row_is_got_over() -> None:
    """However slow a pass was, rows that follow alone bring the cost back."""
    cost = Cost(SPEED)
    cost.note(1, 500.0)
    for _ in range(30):
        cost.note(1, 3.0)
    assert cost.seconds(1) == pytest.approx(3, rel=0.05)
    assert cost.rows_within(10.0) >= 5


@given(
    st.floats(1e-6, 1e3),
    st.floats(1e-6, 1e3),
    st.lists(st.tuples(st.integers(1, 64), st.floats(1e-9, 1e4)), max_size=60),
)
def test_both_parts_are_always_there(decode_s: float, prefill_s: float, passes: list[tuple[int, float]]) -> None:
    cost = Cost(Speed(decode_s=decode_s, prefill_s=prefill_s))
    for rows, seconds in passes:
        cost.note(rows, seconds)
        assert 0 < cost.seconds(0) < cost.seconds(1) < cost.seconds(64) < float("inf")
        assert cost.rows_within(cost.seconds(1)) >= 1
