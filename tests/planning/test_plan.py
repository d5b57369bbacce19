"""Plans, and the options among which they choose."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from kit.random_swarms import planned, random_machine, small_swarm
from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.planning.machine import Machine, Placed
from potluck.planning.options import Options
from potluck.planning.placement import best_span, layer_rates
from potluck.planning.plan import place
from potluck.types import Cuts, Span


def test_options_have_the_memory_and_the_work_that_the_footprint_gives_them() -> None:
    for seed in range(40):
        footprint, machines = small_swarm(seed, cut=seed % 2 > 0)
        options, spans = Options(footprint), footprint.cuts.spans()
        assert [options.span(number) for number in range(len(options.first))] == spans
        assert options.numbers(spans[::-1]).tolist() == [*range(len(spans))][::-1]
        for number, span in enumerate(spans):
            assert (options.memory[number], options.work[number]) == (footprint.of(span), footprint.work(span))
            assert options.rates(machines[0], np.array([number])) == machines[0].rate(footprint, span)


def test_a_span_that_cannot_be_cut_out_is_no_option() -> None:
    options = Options(Footprint((100,) * 4, 0, 0, cut=Cuts((0, 2, 4))))
    with pytest.raises(IndexError):
        options.gains([Machine("one", 0, 1.0)], options.numbers([Span(1, 2)]))


def test_a_plan_is_always_the_same() -> None:
    assert place(*small_swarm(3)) == place(*small_swarm(3))


@pytest.mark.parametrize("seed", range(60))
def test_a_plan_serves_as_many_layers_as_machines_that_come_one_after_the_other(seed: int) -> None:
    footprint, machines = small_swarm(seed, cut=True)
    placed: list[Placed] = []
    for machine in machines:
        if span := best_span(footprint, placed, machine):
            placed.append(Placed(machine, span))
    assert sum(rate > 0 for rate in planned(footprint, machines)) >= sum(map(bool, layer_rates(footprint, placed)))


@pytest.mark.parametrize(
    ("active", "cut"), [((), 10), ((100,) * 12 + (400,), 8), ((1,) * 12 + (4,), 8), ((100,) * 12 + (1,), 6)]
)
def test_two_equal_machines_take_equally_long_with_the_head(active: tuple[int, ...], cut: int) -> None:
    """Neither holds all of it. A head that is long in bytes may be short in time."""
    footprint = Footprint((100,) * 12, entry=0, head=800, active=active)
    machines = [Machine(name, RESERVE_BYTES + 1600, 1e3) for name in "ab"]
    spans = place(footprint, machines)
    assert {*spans} == {Span(0, cut - 1), Span(cut, 11)} == {*footprint.share(2)}


def test_nobody_serves_nothing() -> None:
    footprint, _ = small_swarm(0)
    assert place(footprint, []) == []
    assert place(footprint, [Machine("tiny", 0, 1e9)]) == [None]


@pytest.mark.parametrize("seed", range(3))
def test_a_large_swarm_is_within_a_tenth_of_what_its_machines_could_give_without_any_waste(seed: int) -> None:
    random = Random(seed)
    footprint = Footprint(tuple(random.randint(80, 120) for _ in range(40)), 100, 100)
    machines = [random_machine(random, str(number)) for number in range(200)]
    options = Options(footprint)
    most = [options.work[options.fitting(machine)].max(initial=0) for machine in machines]

    def enough(target: float) -> bool:
        """Whether so many tokens/s are possible if no machine brings a layer more, and all memory is full."""
        given = sum(min(one.bytes_per_s, target * work) for one, work in zip(machines, most, strict=True))
        return bool(given >= target * footprint.work(Span(0, 39)))

    assert not enough(min(planned(footprint, machines)) / 0.9)
