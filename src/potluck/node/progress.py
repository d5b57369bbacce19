"""How far a node is on its way to serving, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol


class Phase(StrEnum):
    """In this order, from a welcome to a node that serves."""

    FETCH = "Fetching"
    TRY = "Trying out"
    LOAD = "Loading"
    MEASURE = "Measuring"


Report = Callable[[Phase, float], None]
"""Is told a phase, and the fraction of it that is done."""

_SHARES = {Phase.FETCH: 0.7, Phase.TRY: 0.12, Phase.LOAD: 0.12, Phase.MEASURE: 0.06}
"""Of the whole way. Weights mostly come over a network, and that is slower than all that follows."""


class Reporter(Protocol):
    """Who is told what the node does: the command line shows it."""

    def say(self, text: str) -> None: ...

    def progress(self, what: str, fraction: float | None) -> None:
        """How far it is with this; None: it waits, nobody knows how long. 1.0 ends it."""


def overall(phase: Phase, fraction: float) -> float:
    """The fraction of the whole way, 0 … 1, that lies behind."""
    phases = list(Phase)
    done = sum(_SHARES[before] for before in phases[: phases.index(phase)])
    return min(1.0, done + _SHARES[phase] * min(max(fraction, 0.0), 1.0))
