"""Requests that wait for room: they are called when it is their turn to try."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from potluck.coordinator.sessions.claim import Claim, Rank
from potluck.coordinator.sessions.fair_queue import AGING_S, FairQueue, Turn


class Place:
    """Of one request, from when it joins the line until its answer ends."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.waits = True
        self._called = asyncio.Event()

    def call(self) -> None:
        self._called.set()

    async def wait(self) -> None:
        """Until it is worth while to try (again): when it is called, and when its class may have risen."""
        with suppress(TimeoutError):
            async with asyncio.timeout(AGING_S):
                await self._called.wait()
        self._called.clear()


class Line:
    """Only the first may try, and nobody overtakes, so that small requests cannot starve a big one.

    queue: says who is first. clock: in seconds.
    """

    def __init__(self, queue: FairQueue, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue = queue
        self._clock = clock
        self._places: dict[Turn, Place] = {}

    def join(self, claim: Claim, work: float, *, urgent: bool = False) -> Place:
        """Leave the place, whatever happens. work: expected, in tokens times layers.

        Raises Busy when too many wait; never for an urgent request.
        """
        place = Place(self._queue.join(claim, work, self._clock(), urgent=urgent))
        self._places[place.turn] = place
        return place

    def is_first(self, place: Place) -> bool:
        return self._queue.first(self._clock()) is place.turn

    def yields(self, place: Place) -> bool:
        """Whether it must leave room for an interactive request that may come."""
        return self._queue.level(place.turn, self._clock()) > Rank.INTERACTIVE

    def start(self, place: Place) -> None:
        """It has found room, and waits no longer. `end` it."""
        self._queue.start(place.turn)
        place.waits = False

    def end(self, place: Place, work: float) -> None:
        """Its answer has ended; work: what it really took."""
        self._queue.end(place.turn, work, self._clock())

    def leave(self, place: Place) -> None:
        """It has found room, or has given up: the next shall try."""
        if place.waits:
            self._queue.leave(place.turn)
        del self._places[place.turn]
        self.call()

    def call(self) -> None:
        """There may be room now: the first shall try."""
        first = self._queue.first(self._clock())
        if first is not None:
            self._places[first].call()
