from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from kit.random_swarms import random_cuts, random_footprint
from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.planning.machine import Machine, Placed
from potluck.planning.placement import best_span, layer_rates, smallest_span
from potluck.types import Cuts, Span

FLAT = Footprint((100,) * 10, entry=0, head=0)


def memory(layers: int) -> int:
    return RESERVE_BYTES + 100 * layers


def machine(name: str, layers: int, bytes_per_s: float = 100.0, link_bytes_per_s: float = float("inf")) -> Machine:
    return Machine(name, memory(layers), bytes_per_s, link_bytes_per_s=link_bytes_per_s)


def placed(*spans: Span, bytes_per_s: float = 100.0) -> list[Placed]:
    return [Placed(machine(f"m{span}", len(span), bytes_per_s), span) for span in spans]


@pytest.mark.parametrize(
    ("others", "layers", "span"),
    [
        ([], 4, Span(0, 3)),
        ([Span(0, 3)], 4, Span(4, 7)),
        ([Span(0, 3), Span(8, 9)], 9, Span(4, 7)),
        ([Span(1, 1), Span(6, 9)], 3, Span(2, 4)),
        ([Span(0, 4), Span(5, 9), Span(0, 4)], 5, Span(5, 9)),
        ([Span(0, 9)], 10, Span(0, 9)),
    ],
    ids=["first", "next", "gap", "largest part of a gap", "bottleneck", "all"],
)
def test_a_newcomer_serves_what_helps_most(others: list[Span], layers: int, span: Span) -> None:
    assert best_span(FLAT, placed(*others), machine("new", layers)) == span


def test_a_slow_newcomer_closes_a_gap_but_takes_no_more_than_it_can_carry() -> None:
    quick = placed(Span(0, 3), Span(6, 9), bytes_per_s=4000.0)
    assert best_span(FLAT, quick, machine("slow", 10, 400.0)) == Span(4, 5)


def test_what_no_memory_holds_is_served_by_nobody() -> None:
    assert best_span(FLAT, [], machine("small", 0)) is None
    assert best_span(Footprint((100,) * 4, entry=500, head=500), [], machine("small", 2)) == Span(1, 2)


def test_a_newcomer_serves_only_what_can_be_cut_out() -> None:
    footprint = structs.replace(FLAT, cut=Cuts((0, 3, 6, 10)))
    assert best_span(footprint, [], machine("new", 5)) == Span(6, 9)
    assert best_span(footprint, placed(Span(6, 9)), machine("new", 5)) == Span(0, 2)
    assert best_span(footprint, placed(Span(6, 9)), machine("new", 6)) == Span(0, 5)
    assert best_span(footprint, [], machine("new", 2)) is None
    assert smallest_span(footprint) == Span(0, 2)
    assert smallest_span(structs.replace(footprint, entry=200)) == Span(3, 5)


@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_machines_that_hold_any_part_between_two_points_soon_serve_all_layers(random: Random, layers: int) -> None:
    cuts = Cuts(random_cuts(random, layers).points)
    footprint = structs.replace(random_footprint(random, layers), cut=cuts)
    parts = [Span(first, end - 1) for first, end in pairwise(cuts.points)]
    there: list[Placed] = []
    for number in range(len(parts)):
        newcomer = Machine(str(number), max(map(footprint.of, parts)), 100.0)
        span = best_span(footprint, there, newcomer)
        assert span is not None
        assert cuts.allows(span)
        there.append(Placed(newcomer, span))
    assert all(layer_rates(footprint, there))


def test_rates_add_up_and_links_limit_them() -> None:
    footprint = Footprint((100,) * 4, entry=0, head=300, row=8)
    quick, thin = machine("quick", 4, 1400.0), machine("thin", 2, 1400.0, link_bytes_per_s=16.0)
    assert layer_rates(footprint, [Placed(quick, Span(0, 3)), Placed(thin, Span(1, 2))]) == [2.0, 4.0, 4.0, 2.0]
