"""Lets requests wait for room, and calls them when it is their turn to try."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from potluck.coordinator.sessions.claim import Claim, Rank
from potluck.coordinator.sessions.fair_queue import AGING_S, FairQueue, Turn


class Place:
    """The place of one request, from when it joins the line until its answer ends."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.waits = True
        self._called = asyncio.Event()

    def call(self) -> None:
        self._called.set()

    async def wait(self) -> None:
        """Wait until it makes sense to try (again): when the request is called, and when its class may have risen."""
        with suppress(TimeoutError):
            async with asyncio.timeout(AGING_S):
                await self._called.wait()
        self._called.clear()


class Line:
    """A line in which only the first request may try and none overtakes, so that small requests cannot starve a big
    one.

    queue: says who is first. clock: in seconds.
    """

    def __init__(self, queue: FairQueue, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue = queue
        self._clock = clock
        self._places: dict[Turn, Place] = {}

    def join(self, claim: Claim, work: float, *, urgent: bool = False) -> Place:
        """Join the line. The caller must leave it, whatever happens. work: expected, in tokens times layers.

        Raises Busy when too many wait, but never for an urgent request.
        """
        place = Place(self._queue.join(claim, work, self._clock(), urgent=urgent))
        self._places[place.turn] = place
        return place

    @property
    def waiting(self) -> int:
        """The number of the requests that wait."""
        return len(self._queue)

    def is_first(self, place: Place) -> bool:
        return self._queue.first(self._clock()) is place.turn

    def yields(self, place: Place) -> bool:
        """Whether the request must leave room for an interactive request that may come."""
        return self._queue.level(place.turn, self._clock()) > Rank.INTERACTIVE

    def runs(self, rank: Rank) -> bool:
        """Whether a request of this class runs."""
        return self._queue.runs(rank)

    def start(self, place: Place) -> None:
        """Note that the request has found room and waits no longer. `end` it afterwards."""
        self._queue.start(place.turn)
        place.waits = False

    def end(self, place: Place, work: float) -> None:
        """Note that the request's answer has ended. work: what it really took."""
        self._queue.end(place.turn, work, self._clock())

    def taken_elsewhere(self, shares: Mapping[tuple[int, str], float]) -> None:
        """Note what accounts were charged at other coordinators. Another request may be first then."""
        self._queue.taken_elsewhere(shares)
        self.call()

    def leave(self, place: Place) -> None:
        """Leave the line, because the request has found room or has given up. The next one tries."""
        if place.waits:
            self._queue.leave(place.turn)
        del self._places[place.turn]
        self.call()

    def call(self) -> None:
        """Let the first request try, because there may be room now."""
        first = self._queue.first(self._clock())
        if first is not None:
            self._places[first].call()

    def call_all(self) -> None:
        """Let all requests look whether there is still hope for them."""
        for place in self._places.values():
            place.call()
