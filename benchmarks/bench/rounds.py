"""Statistics over the rounds of a measurement."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

Values = dict[str, float]
"""The values that one round measured, by name."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of some values; NaN if there are none."""
    return float(np.percentile(values, percent)) if values else float("nan")


def medians(rounds: Sequence[Mapping[str, float]]) -> Values:
    """The median of each value over the rounds."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
