"""Makes quick plans for any number of machines by handing out layers from one end of the model to the other. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import inf
from typing import NamedTuple

import numpy as np

from potluck.planning.cost import Footprint
from potluck.planning.machine import Machine
from potluck.planning.options import Options

Chosen = list[int | None]
"""The option that each machine serves; None for nothing."""

_ORDERS: tuple[Callable[[Machine], float], ...] = (
    lambda machine: -machine.bytes_per_s / max(machine.memory + machine.card, 1),
    lambda machine: machine.memory + machine.card,
    lambda machine: -machine.bytes_per_s,
    lambda machine: machine.bytes_per_s,
)

_BISECTIONS = 12
_ROUNDS = 30

_ONCE = 1e-6
"""A target, as a part of the highest one, that one machine per layer reaches."""


def sweeps(footprint: Footprint, options: Options, machines: Sequence[Machine]) -> Iterator[Chosen]:
    """Plans with the machines in several orders, from either end of the model, the most promising first."""
    runs = [_Sweep(footprint, options, machines, *kind) for kind in product((False, True), repeat=2)]
    able = [index for index, machine in enumerate(machines) if len(options.fitting(machine))]
    for measure in _ORDERS:
        order = sorted(able, key=lambda index: measure(machines[index]))
        yield from (run.best(order) for run in runs)


class _Lane(NamedTuple):
    """The options that begin at one place (or end there, backwards), shortest first.

    memory: what they need beside a card of each size, and never less than a shorter one, so that it can be bisected.
    ends: the places that come after them.
    """

    options: list[int]
    memory: dict[int, list[int]]
    work: list[int]
    ends: list[int]


class _Sweep:
    """Gives each layer machines until it reaches a target, and each machine as many layers from there on as it holds.

    alone: but no more layers than it brings to the target by itself.
    lanes: one for each place where the model may be cut, in the order of the sweep.
    """

    def __init__(
        self, footprint: Footprint, options: Options, machines: Sequence[Machine], alone: bool, backwards: bool
    ) -> None:
        points = footprint.cuts.points
        places = len(points) - 1
        near, far = np.searchsorted(points, options.first), np.searchsorted(points, options.last + 1)
        if backwards:
            near, far = places - far, places - near
        numbers = [np.flatnonzero(near == place)[:: -1 if backwards else 1] for place in range(places)]
        cards = {machine.card: options.beside(machine.card) for machine in machines}
        self._lanes = [
            _Lane(
                lane.tolist(),
                {card: np.maximum.accumulate(needed[lane]).tolist() for card, needed in cards.items()},
                options.work[lane].tolist(),
                far[lane].tolist(),
            )
            for lane in numbers
        ]
        self._alone = alone
        self._memory = [(machine.card, machine.memory) for machine in machines]
        self._reading = [machine.bytes_per_s for machine in machines]
        self._link = [machine.link_rate(footprint) for machine in machines]

    def best(self, order: Sequence[int]) -> Chosen:
        """The plan with the highest target that every layer reaches, found by bisection; if there is none, the one that
        covers most.
        """
        highest = sum(self._reading) / self._lanes[0].work[-1]  # by the work of the whole model
        lowest, best = self._run(order, _ONCE * highest)
        for _ in range(_BISECTIONS if lowest else 0):
            target = (lowest + highest) / 2
            reached, chosen = self._run(order, target)
            if reached >= target:
                lowest, best = reached, chosen
            else:
                highest = target
        return self._rest(best, order, highest)

    def _rest(self, chosen: Chosen, order: Sequence[int], target: float) -> Chosen:
        """Spread the machines that were left over in the same way, until each has what it can hold."""
        chosen = list(chosen)
        for _ in range(_ROUNDS):
            if not (left := [index for index in order if chosen[index] is None]):
                break
            for index, option in enumerate(self._run(left, target)[1]):
                chosen[index] = option if chosen[index] is None else chosen[index]
            target *= 2
        return chosen

    def _run(self, order: Sequence[int], target: float) -> tuple[float, Chosen]:
        """The rate of the slowest layer, 0 below the target, and what each machine of the order serves."""
        waiting = deque(order)
        chosen: Chosen = [None] * len(self._memory)
        lost = [0.0] * (len(self._lanes) + 1)
        rate, lowest = 0.0, inf
        for place, (options, sizes, work, ends) in enumerate(self._lanes):
            rate -= lost[place]
            passed = []
            while rate < target and waiting:
                index = waiting.popleft()
                card, memory = self._memory[index]
                length = bisect_right(sizes[card], memory)
                if length == 0:
                    passed.append(index)
                    continue
                if self._alone and (enough := bisect_right(work, self._reading[index] / (target - rate))):
                    length = min(length, enough)
                chosen[index] = options[length - 1]
                gained = min(self._reading[index] / work[length - 1], self._link[index])
                rate += gained
                lost[ends[length - 1]] += gained
            waiting.extendleft(reversed(passed))
            lowest = min(lowest, rate)
        return (lowest if lowest >= target else 0.0), chosen
