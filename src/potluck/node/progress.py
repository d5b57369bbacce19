"""Measures how far a node is on its way to serving, and whom it tells."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol


class Phase(StrEnum):
    """The phases in order, from a welcome to a node that serves."""

    FETCH = "Fetching"
    TRY = "Trying out"
    LOAD = "Loading"
    MEASURE = "Measuring"


Report = Callable[[Phase, float], None]
"""Receives a phase and the fraction of it that is done."""

_SHARES = {Phase.FETCH: 0.7, Phase.TRY: 0.12, Phase.LOAD: 0.12, Phase.MEASURE: 0.06}
"""The share of each phase in the whole way. Weights mostly come over a network, which is slower than all that follows.
"""


class Reporter(Protocol):
    """Shows the owner what the node does; the command line is one."""

    def say(self, text: str) -> None: ...

    def progress(self, what: str, fraction: float | None) -> None:
        """Show the progress of a task. fraction: 1.0 ends it; None means that the node waits for an unknown time."""


def overall(phase: Phase, fraction: float) -> float:
    """The fraction of the whole way, 0 … 1, that is done."""
    phases = list(Phase)
    done = sum(_SHARES[before] for before in phases[: phases.index(phase)])
    return min(1.0, done + _SHARES[phase] * min(max(fraction, 0.0), 1.0))
