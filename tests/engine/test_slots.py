"""How the cells of the cache are dealt, which session gets which slot, and when a move pays."""

from __future__ import annotations

import random

import pytest

from potluck.engine.slots import Scatter, Shape, best_shape, lay_together
from potluck.types import Capacity

CAPACITY = Capacity(sessions=64, positions=16384, rows=64)
SHARED = Shape(64, 0)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], Shape(16, 1024)),
        ([1024] * 16, Shape(16, 1024)),
        ([1] * 17, Shape(32, 512)),
        ([1025], Shape(8, 2048)),
        ([256] * 64, Shape(64, 256)),
        ([8192, 1], Shape(2, 8192)),
        ([8193], SHARED),
        ([1025] * 9, SHARED),
        ([257] * 33, SHARED),
    ],
)
def test_the_cells_are_dealt_evenly_if_each_session_fits_into_a_slot(lengths: list[int], expected: Shape) -> None:
    assert best_shape(CAPACITY, lengths) == expected


def test_a_shape_lasts_until_it_does_not_fit() -> None:
    shape = best_shape(CAPACITY, [1500])
    assert shape == Shape(8, 2048)
    assert best_shape(CAPACITY, [100] * 8, shape) == shape
    assert best_shape(CAPACITY, [100] * 9, shape) == Shape(16, 1024)
    assert best_shape(CAPACITY, [100] * 9, SHARED) == Shape(16, 1024)


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [
        (Capacity(2, 511, 64), Shape(2, 0)),
        (Capacity(2, 512, 64), Shape(2, 256)),
        (Capacity(1, 4096, 64), Shape(1, 0)),
        (Capacity(5, 2000, 64), Shape(5, 256)),
    ],
)
def test_slots_have_a_multiple_of_256_cells_and_never_more_than_there_are(capacity: Capacity, expected: Shape) -> None:
    shape = best_shape(capacity, [])
    assert shape == expected
    assert shape.sessions * shape.cells <= capacity.positions


def test_those_that_run_together_lie_side_by_side_and_few_move() -> None:
    before = [{1: 0, 2: 1, 3: 2, 4: 3}, {5: 4, 6: 9, 7: 6, 8: 7}]
    assert lay_together(before, 16) == {1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6, 8: 7}


def test_groups_that_leave_each_other_no_window_are_packed() -> None:
    """The larger group would stay in the middle, where it leaves the other one no four slots side by side."""
    laid = lay_together([{1: 2, 2: 3, 3: 4, 4: 5, 5: 6}, {6: 0, 7: 1, 8: 7}], 8)
    assert laid == {6: 0, 7: 1, 8: 2, 1: 3, 2: 4, 3: 5, 4: 6, 5: 7}


@pytest.mark.parametrize("seed", range(50))
def test_whatever_is_laid_together_is_whole_and_side_by_side(seed: int) -> None:
    draw = random.Random(seed)
    slots = draw.choice([4, 16, 64])
    sequences = draw.sample(range(64), draw.randint(1, slots))  # from a cache of another shape, perhaps
    groups: list[dict[int, int]] = []
    for session, sequence in enumerate(sequences):
        if not groups or draw.random() < 0.3:
            groups.append({})
        groups[-1][session] = sequence
    laid = lay_together(groups, slots)
    assert sorted(laid) == list(range(len(sequences)))
    assert len(set(laid.values())) == len(laid)
    assert all(0 <= slot < slots for slot in laid.values())
    for group in groups:
        mine = [laid[session] for session in group]
        assert max(mine) - min(mine) == len(mine) - 1
    assert lay_together([{session: laid[session] for session in group} for group in groups], slots) == laid


def test_a_move_pays_when_the_graphs_that_were_one_too_many_took_as_long() -> None:
    scatter = Scatter()
    scatter.moved(1000, 0.010)
    assert not scatter.pays(1000)
    scatter.ran([8], [0.040], least=1)
    assert not scatter.pays(1)
    scatter.ran([7, 1], [0.030, 0.012], least=1)  # each graph has cost some 4 to 6 ms before its rows
    assert not scatter.pays(1000)
    assert scatter.pays(100)
    for _ in range(3):
        scatter.ran([7, 1], [0.030, 0.012], least=1)
    assert scatter.pays(1000)
    scatter.moved(1000, 0.020)
    assert not scatter.pays(1)


def test_a_move_of_nothing_teaches_nothing() -> None:
    scatter = Scatter()
    scatter.moved(100, 1.0)
    scatter.moved(0, 5.0)
    scatter.ran([1, 1], [1.0, 1.0], least=1)
    assert scatter.pays(40)
    assert not scatter.pays(60)
