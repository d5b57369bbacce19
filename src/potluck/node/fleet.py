"""Decides which coordinator of a fleet a node dials next. Without clock and I/O."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from potluck.types import Coordinator
from potluck.wire.fleet import check_fleet
from potluck.wire.origin import leads_here, origin

_SPREAD = 3.0
"""A coordinator can be tried by this many places earlier than it was named, so that the nodes of one that is lost do
not all go to the same other one."""
_TRIES = 3
"""The times that a node dials the coordinator to which it is sent, before it goes back."""


class KnownFleet:
    """The coordinators that a node may dial. home: the URL with which its owner let it join, which always stays.

    told: what coordinators of the fleet said of each other. chance: a number from 0 to 1.
    """

    def __init__(
        self, home: str, told: Iterable[Coordinator] = (), chance: Callable[[], float] = random.random
    ) -> None:
        self.home = home
        self.url = home
        """That of the coordinator that the node dials now, or is with."""
        self._chance = chance
        self._settled = home
        """The coordinator that it served last, to which it comes back."""
        self._told: dict[str, Coordinator] = {}
        self._round: list[str] = []
        """The URLs that are still to be dialled before it is time to wait."""
        self._tries = 0
        """The further times that it dials the coordinator to which it was sent."""
        self._take(told)

    @property
    def told(self) -> tuple[Coordinator, ...]:
        """The coordinators besides the owner's, as it is to be kept for the next start."""
        return tuple(self._told.values())

    @property
    def other(self) -> Coordinator | None:
        """What was told of the coordinator that the node dials now; None if it is the owner's, which nobody else may
        describe.
        """
        return self._told.get(origin(self.url))

    @property
    def is_elsewhere(self) -> bool:
        """Whether it dials another coordinator than the one that it served last."""
        return self.url != self._settled

    def learn(self, coordinators: Sequence[Coordinator]) -> bool:
        """Know these instead of all that were told before, except for the one that the node is with. Returns whether
        this changes anything.

        Raises WireError when they cannot be right.
        """
        check_fleet(coordinators)
        before, present = self._told, self.other
        self._told = {}
        self._take([*([] if present is None else [present]), *coordinators])
        return before != self._told

    def send(self, there: Coordinator) -> bool:
        """Dial this one next, and for a few times if need be. Returns False if it is none to which the node may go.

        Raises WireError when it cannot be right.
        """
        check_fleet([there])
        if not self._may_go(there):
            return False
        place = origin(there.url)
        if place != origin(self.home):
            there = self._told.setdefault(place, there)
        self.url = self.home if place == origin(self.home) else there.url
        self._round, self._tries = [], _TRIES - 1
        return True

    def give_up(self) -> None:
        """Try the coordinator that is dialled now no more than this time."""
        self._tries = 0

    def next(self) -> bool:
        """Go on to the next coordinator. Returns whether it is time to wait before it is dialled."""
        if self._tries:
            self._tries -= 1
            return True
        begins = not self._round
        if begins:
            self._round = [self._settled, *self._others()]
        self.url = self._round.pop(0)
        return begins

    def settle(self) -> None:
        """Note that the node serves the coordinator that it has dialled."""
        self._settled, self._round, self._tries = self.url, [], 0

    def _others(self) -> list[str]:
        """All others, nearly in the order in which they were named."""
        known = [self.home, *(each.url for each in self._told.values())]
        places = {url: place + _SPREAD * self._chance() for place, url in enumerate(known) if url != self._settled}
        return sorted(places, key=lambda url: places[url])

    def _take(self, coordinators: Iterable[Coordinator]) -> None:
        """Know those to which the node may go, each place once, as it was described first."""
        for each in coordinators:
            if origin(each.url) != origin(self.home) and self._may_go(each):
                self._told.setdefault(origin(each.url), each)

    def _may_go(self, there: Coordinator) -> bool:
        """Whether a node may be sent there by others than its owner.

        A loopback address is another machine for each one that is told it, and an owner who chose TLS wants no less.
        """
        if leads_here(there.url) and not leads_here(self.home):
            return False
        return there.url.startswith("https://") or not self.home.startswith("https://")
