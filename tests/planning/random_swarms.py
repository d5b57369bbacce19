"""Random swarms, uneven in every way: models with and without large ends, machines that hold nothing, thin links."""

from __future__ import annotations

from math import inf
from random import Random

from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.planning.machine import Machine


def random_footprint(random: Random, layers: int) -> Footprint:
    even = random.random() < 0.4
    sizes = tuple(100 if even else random.choice([50, 100, 200, random.randint(20, 300)]) for _ in range(layers))
    ends = random.choice([0, 50, 400]), random.choice([0, 100, 300])
    return Footprint(sizes, *ends, cache=random.choice([0, 10, 50]), row=random.choice([0, 8]))


def random_machine(random: Random, name: str) -> Machine:
    room = random.choice([random.randint(0, 300), random.randint(100, 1200), random.randint(100, 2000)])
    speed = 1000 * random.choice([1.0, 2.0, 5.0, 10.0, random.uniform(0.5, 30)])
    return Machine(name, RESERVE_BYTES + room, speed, 0.001, random.choice([inf, random.uniform(20, 800)]))
