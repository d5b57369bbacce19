"""The phases of loading make one way, which is gone in one direction."""

from itertools import pairwise

from potluck.node.progress import Phase, overall


def test_the_way_begins_at_nothing_and_ends_with_everything() -> None:
    assert overall(Phase.FETCH, 0.0) == 0.0
    assert overall(Phase.MEASURE, 1.0) == 1.0


def test_each_phase_begins_where_the_one_before_it_ends() -> None:
    for before, after in pairwise(Phase):
        assert overall(before, 1.0) == overall(after, 0.0)
        assert overall(before, 0.0) < overall(before, 0.5) < overall(before, 1.0)


def test_what_is_no_fraction_stays_within_its_phase() -> None:
    assert overall(Phase.LOAD, -1.0) == overall(Phase.LOAD, 0.0)
    assert overall(Phase.LOAD, 7.0) == overall(Phase.LOAD, 1.0)
