"""Random swarms, uneven in every way: models with and without large ends, which can be cut anywhere or at some layers;
machines that hold nothing, thin links.
"""

from __future__ import annotations

from math import inf
from random import Random

from msgspec import structs

from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.planning.machine import Machine, Placed
from potluck.planning.placement import layer_rates
from potluck.planning.plan import place
from potluck.types import Cuts

SIZES = [(2, 7), (3, 7), (4, 5), (5, 4)]
"""Machines, and the most layers at which all assignments are still few."""


def random_footprint(random: Random, layers: int) -> Footprint:
    even = random.random() < 0.4
    sizes = tuple(100 if even else random.choice([50, 100, 200, random.randint(20, 300)]) for _ in range(layers))
    ends = random.choice([0, 50, 400]), random.choice([0, 100, 300])
    cache = tuple(random.choice([0, 10, 50]) for _ in range(layers)) if random.random() < 0.7 else ()
    active = tuple(random.randint(1, size or 1) for size in (*sizes, ends[1])) if random.random() < 0.3 else ()
    staged, stub, middle = (random.choice([0, 0, 60]) for _ in range(3))
    return Footprint(sizes, *ends, active, cache, staged, stub, middle, row=random.choice([0, 8]))


def random_cuts(random: Random, layers: int) -> Cuts:
    """Points at random or regular distances, and sometimes lengths that no span may have."""
    period = random.randint(2, 4)
    inner = [layer for layer in range(1, layers) if random.random() < 0.5]
    points = {0, *random.choice([inner, range(period, layers - 1, period)]), layers}
    forbidden = [length for length in range(1, layers + 1) if random.random() < 0.15]
    return Cuts(tuple(sorted(points)), frozenset(random.choice([[], forbidden])))


def random_cut_footprint(random: Random, layers: int) -> Footprint:
    return structs.replace(random_footprint(random, layers), cut=random_cuts(random, layers))


def random_machine(random: Random, name: str) -> Machine:
    room = random.choice([random.randint(0, 300), random.randint(100, 1200), random.randint(100, 2000)])
    speed = 1000 * random.choice([1.0, 2.0, 5.0, 10.0, random.uniform(0.5, 30)])
    return Machine(name, RESERVE_BYTES + room, speed, 0.001, random.choice([inf, random.uniform(20, 800)]))


def small_swarm(seed: int, cut: bool = False) -> tuple[Footprint, list[Machine]]:
    """A swarm. cut: its model cannot be cut everywhere; all else is the same."""
    random = Random(seed)
    machines, most = random.choice(SIZES)
    footprint = random_footprint(random, random.randint(3, most))
    fleet = [random_machine(random, str(number)) for number in range(machines)]
    return structs.replace(footprint, cut=random_cuts(random, len(footprint.layers)) if cut else None), fleet


def planned(footprint: Footprint, machines: list[Machine]) -> list[float]:
    """The rate of each layer; every machine that can serve a span does, and nobody takes more than it holds."""
    spans = place(footprint, machines)
    for machine, span in zip(machines, spans, strict=True):
        assert (span is None) == all(footprint.of(one) > machine.memory for one in footprint.cuts.spans())
        assert span is None or (footprint.of(span) <= machine.memory and footprint.cuts.allows(span))
    placed = [Placed(machine, span) for machine, span in zip(machines, spans, strict=True) if span is not None]
    return layer_rates(footprint, placed)
