"""How long a request waits for the layers of an offered model."""

from __future__ import annotations

import pytest

from potluck.coordinator.sessions.arrival import Arrival
from potluck.coordinator.sessions.demand import Demand, Times
from potluck.coordinator.swarm.swarm import Swarm
from potluck.errors import Unavailable
from potluck.planning.cost import Footprint


class Waiting:
    """A request for a model of two layers without nodes."""

    def __init__(self, *, always: bool = False) -> None:
        self.now = 0.0
        self.told: list[float] = []
        self.demand = Demand(always=always, times=Times(patience_s=120))
        swarm = Swarm("d", Footprint((1, 1), 0, 0))
        self.arrival = Arrival(swarm, self.demand, lambda: self.now, self.told.append)


def test_it_waits_and_is_told_how_much_is_loaded() -> None:
    waiting = Waiting()
    assert waiting.arrival.is_awaited()
    assert waiting.told == [0.0]


def test_nobody_waits_for_a_model_that_is_served_at_all_times() -> None:
    assert not Waiting(always=True).arrival.is_awaited()


def test_it_gives_up_at_once_when_no_nodes_can_load_the_model() -> None:
    waiting = Waiting()
    waiting.demand.fault = "It is too large."
    with pytest.raises(Unavailable, match=r"^It is too large\.$"):
        waiting.arrival.is_awaited()


def test_it_gives_up_after_a_time_that_it_tells() -> None:
    waiting = Waiting()
    waiting.now = 119
    assert waiting.arrival.is_awaited()
    waiting.now = 120
    with pytest.raises(Unavailable, match=r"^No node has loaded layers 0-1 within 2 minutes: ask again later\.$"):
        waiting.arrival.is_awaited()
