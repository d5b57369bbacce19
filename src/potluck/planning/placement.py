"""The placement of layers: decides which of them each machine of a swarm should serve. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from potluck.planning.cost import Footprint
from potluck.planning.machine import Machine, Placed
from potluck.planning.merit import best_option
from potluck.planning.options import Options
from potluck.types import Span


def best_span(footprint: Footprint, placed: Sequence[Placed], newcomer: Machine) -> Span | None:
    """The span for a newcomer: the one that leaves the fewest layers uncovered, and then the highest bottleneck.

    Of equal spans, those that leave fewer gaps win, then those that help the slower layers more, then the first and the
    shortest. Returns None when not even the smallest span fits.
    """
    options = Options(footprint)
    option = best_option(options, np.array(layer_rates(footprint, placed)), newcomer)
    return None if option is None else options.span(option)


def smallest_span(footprint: Footprint) -> Span:
    """The span that needs the least memory, or the first of several."""
    options = Options(footprint)
    return options.span(int(options.memory.argmin()))


def layer_rates(footprint: Footprint, placed: Sequence[Placed]) -> list[float]:
    """The tokens/s of many streams together that each layer's machines carry; 0 if there are none."""
    rates = [0.0] * len(footprint.layers)
    for one in placed:
        rate = one.machine.rate(footprint, one.span)
        for layer in range(one.span.first, one.span.last + 1):
            rates[layer] += rate
    return rates
