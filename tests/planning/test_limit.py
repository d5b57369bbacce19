from math import inf

import pytest

from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.planning.limit import limit, limit_sentence
from potluck.planning.machine import Machine, Placed
from potluck.types import Span

FOOTPRINT = Footprint((100,) * 4, entry=50, head=0)


def placed(name: str, span: str, bytes_per_s: float, round_trip_s: float = 0.0) -> Placed:
    return Placed(Machine(name, RESERVE_BYTES + 650, bytes_per_s, round_trip_s, inf), Span.parse(span))


def test_a_second_holder_of_the_slowest_stage_helps_as_far_as_the_others_carry_it() -> None:
    swarm = [placed("quick", "0-1", 600.0), placed("attic-pc", "2-3", 400.0)]
    found = limit(FOOTPRINT, swarm)
    assert found is not None
    assert (found.slowest, found.bottleneck) == (swarm[1], swarm[1])
    assert found.share == pytest.approx(0.6)
    assert found.gain == pytest.approx(0.5)  # from 2 tokens/s to the 3 of the other one
    assert limit_sentence(FOOTPRINT, swarm) == (
        "Layers 2-3 on attic-pc take 60 % of a token's time; a second machine would make 8 streams 50 % faster."
    )


def test_who_limits_many_streams_may_be_another_than_who_is_slow_for_one() -> None:
    swarm = [placed("far", "0-2", 3000.0, round_trip_s=0.9), placed("Small", "3", 200.0)]
    assert limit_sentence(FOOTPRINT, swarm) == (
        "Layers 0-2 on far take 67 % of a token's time; "
        "a second machine for layer 3 on Small would make 8 streams 100 % faster."
    )


def test_layers_that_several_hold_get_one_more_holder() -> None:
    swarm = [placed("quick", "0-1", 6000.0), placed("attic-pc", "2-3", 400.0), placed("cellar", "2-3", 400.0)]
    assert "; one more machine would make 8 streams " in limit_sentence(FOOTPRINT, swarm)


def test_where_another_machine_changes_nothing_only_the_share_is_told() -> None:
    swarm = [placed("far", "0-3", 1e6, round_trip_s=1.0)]
    assert limit_sentence(FOOTPRINT, swarm) == "Layers 0-3 on far take 100 % of a token's time."


def test_what_is_missing_comes_first() -> None:
    assert limit(FOOTPRINT, [placed("a", "0-1", 600.0)]) is None
    assert limit_sentence(FOOTPRINT, [placed("a", "0-1", 600.0)]).startswith("No machine can hold layers 2-3")
