"""Requests that wait for room, in the order in which they came."""

from __future__ import annotations

import asyncio

from potluck.errors import Busy


class Place:
    """Of one request. urgent: before all that are not."""

    def __init__(self, urgent: bool) -> None:
        self.urgent = urgent
        self._called = asyncio.Event()

    def call(self) -> None:
        self._called.set()

    async def wait(self) -> None:
        """Until it is worth while to try (again)."""
        await self._called.wait()
        self._called.clear()


class Line:
    """Only the first may try, and nobody overtakes, so that small requests cannot starve a big one."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._places: list[Place] = []

    def __len__(self) -> int:
        return len(self._places)

    def join(self, *, urgent: bool = False) -> Place:
        """A place at the end, or behind the urgent ones for one more of them. Leave it, whatever happens.

        Raises Busy when the line is full; it never is for an urgent request.
        """
        if not urgent and len(self._places) >= self._longest:
            raise Busy(f"The swarm is busy: {len(self._places)} requests wait already. Try again later.")
        place = Place(urgent)
        behind = sum(other.urgent for other in self._places) if urgent else len(self._places)
        self._places.insert(behind, place)
        return place

    def is_first(self, place: Place) -> bool:
        return self._places[0] is place

    def leave(self, place: Place) -> None:
        first = self.is_first(place)
        self._places.remove(place)
        if first:
            self.call()

    def call(self) -> None:
        """There may be room now: the first shall try."""
        if self._places:
            self._places[0].call()
