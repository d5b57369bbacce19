"""Plans which spans a set of machines should serve when all of them are known beforehand. Pure.

Sweeps give the first plans. Each is improved by placing one machine anew, or two or three together, as long as this
helps and the allowed work lasts. Small swarms are searched thoroughly, and large ones hardly need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, combinations, islice
from math import prod

import numpy as np

from potluck.planning.cost import Footprint
from potluck.planning.machine import Machine
from potluck.planning.merit import Merit, best_options, merit
from potluck.planning.options import Options
from potluck.planning.sweep import sweeps
from potluck.types import Span

_WORK = 9_000_000
"""The work that may be done to find a plan. One unit is about 10 ns: a look at the rate of one layer."""

_LOOK = 10_000
"""The least work of placing one machine anew."""

_SWEEP = 600
"""The work of a sweep for each machine."""


def place(footprint: Footprint, machines: Sequence[Machine]) -> list[Span | None]:
    """The span that each machine should serve; None if not even the smallest one fits.

    Most layers covered comes first, then the rate of the slowest layer.
    """
    options = Options(footprint)
    # Half of the work is for sweeps. Of the rest each plan may use half of what those before it have left.
    most = max(1, _WORK // (2 * _SWEEP * (1 + len(machines))))
    found = dict.fromkeys(map(tuple, islice(sweeps(footprint, options, machines), most)))
    plans = sorted((_Plan(options, machines, chosen) for chosen in found), key=lambda plan: plan.merit, reverse=True)
    work = _WORK // 2
    for plan in plans:
        work -= plan.improve(work // 2)
    best = max(plans, key=lambda plan: plan.merit)
    return [None if option is None else options.span(option) for option in best.chosen]


class _Plan:
    """A plan. chosen [machines]: the option that each machine serves. merit: how good the plan is."""

    def __init__(self, options: Options, machines: Sequence[Machine], chosen: Sequence[int | None]) -> None:
        self._options = options
        self._machines = machines
        self.chosen = list(chosen)
        self._gains = np.zeros((len(machines), options.layers))  # what each gives each layer
        self._able = [index for index, option in enumerate(chosen) if option is not None]
        self._set(self._able, [option for option in chosen if option is not None])

    def _set(self, group: Sequence[int], options: Sequence[int]) -> None:
        """Let these machines serve these options from now on."""
        for index, option in zip(group, options, strict=True):
            self.chosen[index] = option
        self._gains[list(group)] = self._options.gains([self._machines[index] for index in group], options)
        self.merit: Merit = merit(self._gains.sum(axis=0))

    def improve(self, allowed: int) -> int:
        """Improve the plan until nothing helps or the work is used up. Returns the work that was done."""
        done, groups = 0, _groups(self._able)
        while group := next(groups, None):
            cost = self._cost(group)
            if done + cost > allowed:
                break
            done += cost
            if self._place_anew(group):
                tried = self._able.index(group[-1]) + 1
                self._able = self._able[tried:] + self._able[:tried]  # all get their turn before any has a second one
                groups = _groups(self._able)
        return done

    def _cost(self, group: tuple[int, ...]) -> int:
        fitting = [len(self._options.fitting(self._machines[index])) for index in group]
        return _LOOK + self._gains.size + (self._options.layers * prod(fitting) if len(group) > 1 else sum(fitting))

    def _place_anew(self, group: tuple[int, ...]) -> bool:
        """Let these machines serve what is best together. False if they already do."""
        others = np.delete(self._gains, group, axis=0).sum(axis=0)
        before, kept = self.merit, [option for index in group if (option := self.chosen[index]) is not None]
        self._set(group, best_options(self._options, others, [self._machines[index] for index in group]))
        if self.merit > before:
            return True
        self._set(group, kept)
        return False


def _groups(able: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Each machine alone, then all pairs and all triples."""
    return chain.from_iterable(combinations(able, size) for size in (1, 2, 3))
