"""The arrival of an offered model's layers, for which requests wait. Without I/O."""

from __future__ import annotations

from collections.abc import Callable

from potluck.coordinator.sessions.demand import Demand
from potluck.coordinator.swarm.completion import loaded
from potluck.coordinator.swarm.swarm import Swarm
from potluck.errors import Unavailable


class Arrival:
    """The arrival as one request awaits it. tell: is called with the share of the layers that are loaded.

    clock: in seconds.
    """

    def __init__(self, swarm: Swarm, demand: Demand, clock: Callable[[], float], tell: Callable[[float], None]) -> None:
        self._swarm = swarm
        self._demand = demand
        self._clock = clock
        self._tell = tell
        self._deadline = clock() + demand.times.patience_s

    def is_awaited(self) -> bool:
        """Whether the request has to wait for layers. Raises Unavailable when they will not come, or not in time."""
        if self._demand.always or not (missing := self._swarm.missing()):
            return False
        if self._demand.fault:
            raise Unavailable(self._demand.fault)
        if self._clock() >= self._deadline:
            minutes = self._demand.times.patience_s / 60
            layers = ", ".join(map(str, missing))
            raise Unavailable(f"No node has loaded layers {layers} within {minutes:.0f} minutes: ask again later.")
        self._tell(loaded(self._swarm))
        return True
