"""Plans, compared with every assignment of spans that there is."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from planning.random_swarms import random_footprint, random_machine
from potluck.planning.cost import Footprint
from potluck.planning.machine import Machine, Placed
from potluck.planning.options import Options
from potluck.planning.placement import layer_rates
from potluck.planning.plan import place
from potluck.types import Span

SWARMS = 720
SIZES = [(2, 7), (3, 7), (4, 5), (5, 4)]
"""Machines, and the most layers at which all assignments are still few."""


def swarm(seed: int) -> tuple[Footprint, list[Machine]]:
    random = Random(seed)
    machines, most = random.choice(SIZES)
    footprint = random_footprint(random, random.randint(3, most))
    return footprint, [random_machine(random, str(number)) for number in range(machines)]


def optimum(footprint: Footprint, machines: list[Machine]) -> tuple[int, float]:
    """Most layers that can be covered, and the highest bottleneck, by trying all."""
    options = Options(footprint)
    rates = np.zeros((1, options.layers))
    for machine in machines:
        fitting = options.fitting(machine)
        gains = options.rates(machine, fitting)[:, None] * options.covers[fitting]
        rates = (rates[:, None] + gains).reshape(-1, options.layers) if len(fitting) else rates
    return int((rates > 0).sum(axis=1).max()), float(rates.min(axis=1).max())


def planned(footprint: Footprint, machines: list[Machine]) -> list[float]:
    """The rate of each layer; every machine that can serve a layer does, and nobody takes more than it holds."""
    spans = place(footprint, machines)
    for machine, span in zip(machines, spans, strict=True):
        layers = [Span(layer, layer) for layer in range(len(footprint.layers))]
        assert (span is None) == all(footprint.of(layer) > machine.memory for layer in layers)
        assert span is None or footprint.of(span) <= machine.memory
    placed = [Placed(machine, span) for machine, span in zip(machines, spans, strict=True) if span is not None]
    return layer_rates(footprint, placed)


@pytest.mark.parametrize("part", range(6))
def test_plans_are_within_5_percent_of_the_optimum(part: int) -> None:
    complete = 0
    for seed in range(part, SWARMS, 6):
        footprint, machines = swarm(seed)
        covered, bottleneck = optimum(footprint, machines)
        rates = planned(footprint, machines)
        assert sum(rate > 0 for rate in rates) == covered, seed
        assert min(rates) >= 0.95 * bottleneck, seed
        complete += bottleneck > 0
    assert complete > 50  # most of these swarms can run their model


def test_options_have_the_memory_and_the_work_that_the_footprint_gives_them() -> None:
    for seed in range(20):
        footprint, machines = swarm(seed)
        options = Options(footprint)
        for number in range(len(options.first)):
            span = options.span(number)
            assert options.number(span) == number
            assert (options.memory[number], options.work[number]) == (footprint.of(span), footprint.work(span))
            assert options.rates(machines[0], np.array([number])) == machines[0].rate(footprint, span)


def test_a_plan_is_always_the_same() -> None:
    assert place(*swarm(3)) == place(*swarm(3))


def test_nobody_serves_nothing() -> None:
    footprint, _ = swarm(0)
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
