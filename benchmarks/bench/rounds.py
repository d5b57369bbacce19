"""What several rounds of a measurement give together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

Values = dict[str, float]
"""What one round measured, by name."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Not a number where there are no values."""
    return float(np.percentile(values, percent)) if values else float("nan")


def medians(rounds: Sequence[Mapping[str, float]]) -> Values:
    """Of each value over the rounds."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
