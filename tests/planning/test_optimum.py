"""Plans, compared with every assignment of spans that there is."""

from __future__ import annotations

import numpy as np
import pytest

from kit.random_swarms import planned, small_swarm
from potluck.planning.cost import Footprint
from potluck.planning.machine import Machine
from potluck.planning.options import Options

SWARMS = 720


def optimum(footprint: Footprint, machines: list[Machine]) -> tuple[int, float]:
    """Most layers that can be covered, and the highest bottleneck, by trying all."""
    options = Options(footprint)
    rates = np.zeros((1, options.layers))
    for machine in machines:
        fitting = options.fitting(machine)
        gains = options.rates(machine, fitting)[:, None] * options.covers[fitting]
        rates = (rates[:, None] + gains).reshape(-1, options.layers) if len(fitting) else rates
    return int((rates > 0).sum(axis=1).max()), float(rates.min(axis=1).max())


@pytest.mark.parametrize("cut", [False, True], ids=["anywhere", "at some layers"])
@pytest.mark.parametrize("part", range(6))
def test_plans_are_within_5_percent_of_the_optimum(part: int, cut: bool) -> None:
    complete = 0
    for seed in range(part, SWARMS, 6):
        footprint, machines = small_swarm(seed, cut)
        covered, bottleneck = optimum(footprint, machines)
        rates = planned(footprint, machines)
        assert sum(rate > 0 for rate in rates) == covered, seed
        assert min(rates) >= 0.95 * bottleneck, seed
        complete += bottleneck > 0
    assert complete > 50  # most of these swarms can run their model
