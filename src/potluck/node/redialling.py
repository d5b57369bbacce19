"""Dials a coordinator, or another of its fleet, again and again, as long as there may be one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from potluck.errors import (
    IdentityError,
    LinkClosed,
    ModelError,
    NoCoordinator,
    PotluckError,
    Refused,
    TicketExpired,
    WireError,
)
from potluck.network import way_to
from potluck.node.config import node_url
from potluck.node.fleet import KnownFleet
from potluck.node.kept_fleet import keep_fleet, kept_fleet
from potluck.types import Coordinator
from potluck.wire.fleet import Redirect
from potluck.wire.link import WebSocketLink

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 3.0
"""Dialling costs next to nothing, and a coordinator that is back should have its nodes again within seconds."""

_NOT_HERE = (IdentityError, ModelError, Refused, WireError)
"""What does not pass by itself: this node cannot be at this coordinator."""


async def dial_once(url: str) -> WebSocketLink:
    """Dial the coordinator at this URL. Raises NoCoordinator or LinkClosed with a whole sentence for the owner."""
    try:
        return await WebSocketLink.dial(node_url(url))
    except NoCoordinator as error:
        raise _no_coordinator(url, error) from error
    except LinkClosed as error:
        raise LinkClosed(f"There is no connection to {way_to(url)} ({error}).") from error


def _no_coordinator(url: str, error: NoCoordinator) -> NoCoordinator:
    return NoCoordinator(f"There is no coordinator at {way_to(url)}: {error}.")


class Redialling:
    """Dials the coordinator at this URL, or another one of its fleet when it is lost. say: receives sentences for the
    owner.

    Raises IdentityError when what is kept of the fleet cannot be read.
    """

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        self._fleet = KnownFleet(url, kept_fleet(url))
        self._say = say
        self._pause_s = _FIRST_PAUSE_S
        """Seconds until the next attempt to connect, once all were tried."""
        self._was_admitted = bool(self._fleet.told)
        """Whether a coordinator has admitted this node before. Then it is there, whatever answers in its place."""

    @property
    def url(self) -> str:
        """That of the coordinator that is dialled now."""
        return self._fleet.url

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is another coordinator than the one that this node has served last."""
        return self._fleet.is_elsewhere

    @property
    def other(self) -> Coordinator | None:
        """What was told of the coordinator that is dialled now; None if it is the owner's."""
        return self._fleet.other

    async def dial(self) -> WebSocketLink:
        return await WebSocketLink.dial(node_url(self.url))

    def admitted(self) -> None:
        """Note that the coordinator has admitted this node."""
        self._was_admitted = True
        self._pause_s = _FIRST_PAUSE_S  # not before: a coordinator that is overrun accepts sockets, too

    def settle(self) -> None:
        """Note that this node serves this coordinator from now on."""
        self._fleet.settle()

    def give_up(self) -> None:
        """Note that this node is of no use to the coordinator to which it was sent."""
        self._fleet.give_up()

    def learn(self, coordinators: Sequence[Coordinator]) -> None:
        """Know these others from now on, and keep them. Raises WireError when they cannot be right."""
        if self._fleet.learn(coordinators):
            try:
                keep_fleet(self._fleet.home, self._fleet.told)
            except IdentityError as error:  # it only matters if this node starts anew while its coordinator is away
                self._say(str(error))

    def send(self, redirect: Redirect) -> None:
        """Dial this other coordinator next. Raises WireError when it cannot be right, LinkClosed when the node may not
        go there.
        """
        here = self.url
        if not self._fleet.send(Coordinator(redirect.url, redirect.key)):
            raise LinkClosed(f"it sends this node to {redirect.url}, where its owner's choice does not let it go")
        self._say(f"{here} sends this node to {self.url}, which lacks layers.")

    async def lost(self, error: PotluckError) -> None:
        """Tell the owner why there is no link, and wait until it is time to dial the next coordinator.

        Raises the error again if there is no reason to try another, or NoCoordinator when there never was one.
        """
        if isinstance(error, NoCoordinator) and not self._was_admitted:
            raise _no_coordinator(self.url, error) from error
        here, told = self.url, f"There is no connection to {way_to(self.url)} ({error})"
        if isinstance(error, _NOT_HERE) and not isinstance(error, TicketExpired):  # which a link that is gone leaves
            if not self._may_try_others(error):
                raise error
            self._fleet.give_up()
            told = f"This node cannot be at {way_to(here)} ({str(error).rstrip('.')})"
        waits = self._fleet.next()
        there = "again" if self.url == here else way_to(self.url)
        self._say(f"{told}; trying {there} in {self._pause_s:.1f} s." if waits else f"{told}; trying {there}.")
        if waits:
            await self.pause()

    def _may_try_others(self, error: PotluckError) -> bool:
        """Whether another coordinator may take this node, after one has refused it or was refused by it.

        What the coordinator says that it served last is for good, unless another machine answers in its place.
        """
        return self.is_elsewhere or (isinstance(error, IdentityError) and bool(self._fleet.told))

    async def pause(self) -> None:
        """Wait until it is time to dial again."""
        # Each node waits a little differently, so that they do not all come back in the same moment.
        await asyncio.sleep(self._pause_s * random.uniform(0.8, 1.2))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
