"""Finds the best of many possible swarms, judged by the rate of each layer. Pure.

The criteria, in order: most layers covered, the highest bottleneck, the fewest gaps, and the most even rates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from potluck.planning.machine import Machine
from potluck.planning.offload import Numbers
from potluck.planning.options import Flags, Floats, Options

Merit = tuple[float, float, float, float]
"""The merit of a swarm; higher is better."""

_KEYS = 4


def merit(rates: Floats) -> Merit:
    """The merit of one swarm. rates [layers]: tokens/s, 0 if nobody serves a layer."""
    covered, bottleneck, gaps, evenness = (float(_key(number, rates)) for number in range(_KEYS))
    return covered, bottleneck, gaps, evenness


def best_row(rates: Floats) -> int:
    """The best of these swarms, or the first of equals. rates [swarms, layers]."""
    rows = np.arange(len(rates))
    for number in range(_KEYS):
        rows = _highest(rows, _key(number, rates[rows]))
    return int(rows[0])


def best_option(options: Options, base: Floats, machine: Machine) -> int | None:
    """The best option for this machine besides those that give each layer its rate, base [layers].

    None when not even the smallest one fits.
    """
    chosen = options.fitting(machine)
    if not len(chosen):
        return None
    covered, bottleneck = outcomes(options, chosen, base, options.rates(machine, chosen))
    top = _highest(np.arange(len(chosen)), covered)
    chosen = chosen[_highest(top, bottleneck[top].astype(np.float32))]
    rates = options.rates(machine, chosen)
    return int(chosen[best_row(base + rates[:, None] * options.covers[chosen])])


def best_options(options: Options, base: Floats, machines: Sequence[Machine]) -> list[int]:
    """The best options for several machines together. At least one option fits each machine."""
    if len(machines) == 1:
        return [option for machine in machines if (option := best_option(options, base, machine)) is not None]
    fitting = [options.fitting(machine) for machine in machines]
    rates = base
    for machine, chosen in zip(machines, fitting, strict=True):
        rates = rates[..., None, :] + options.rates(machine, chosen)[:, None] * options.covers[chosen]
    shape = rates.shape[:-1]
    parts = np.unravel_index(best_row(rates.reshape(-1, options.layers)), shape)
    return [int(chosen[part]) for chosen, part in zip(fitting, parts, strict=True)]


def outcomes(options: Options, chosen: Numbers, base: Floats, rates: Floats) -> tuple[Numbers, Floats]:
    """The layers covered, and the bottleneck, if one machine serves one of these options besides the others.

    base [layers]: what the others give each layer. rates [chosen]: what the machine adds. Returns [chosen] for each.
    """
    first, last = options.first[chosen], options.last[chosen]
    idle = np.cumsum([False, *(base <= 0)])
    covered = len(base) - idle[-1] + idle[last + 1] - idle[first]
    before = np.minimum.accumulate([np.inf, *base])
    after = np.minimum.accumulate([np.inf, *base[::-1]])[::-1]
    within = np.minimum.accumulate(np.where(np.tri(len(base), dtype=bool).T, base, np.inf), axis=1)
    outside = np.minimum(before[first], after[last + 1])
    return covered, np.minimum(outside, within[first, last] + rates)


def _key(number: int, rates: Floats) -> npt.NDArray[np.float32]:
    """One of the four criteria, for rates [..., layers]. In float32, so that the order of a sum decides nothing."""
    if number == 0:
        key = (rates > 0).sum(axis=-1)
    elif number == 1:
        key = rates.min(axis=-1)
    elif number == 2:
        key = -_gaps(rates <= 0)
    else:
        squares = np.square(np.where(rates > 0, rates, np.inf))
        key = -np.sqrt(np.sqrt(np.sum(1 / np.square(squares), axis=-1)))  # the slowest layers rule, but all count
    return np.asarray(key, np.float32)


def _gaps(idle: Flags) -> Numbers:
    """The number of runs of idle layers, for rates [..., layers]."""
    begins = idle[..., 1:] & ~idle[..., :-1]
    return np.asarray(idle[..., 0] + begins.sum(axis=-1))


def _highest(rows: Numbers, key: npt.NDArray[np.generic]) -> Numbers:
    highest: Numbers = rows[np.asarray(key == key.max())]
    return highest
