"""Dials a coordinator again and again, as long as there may be one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from potluck.errors import LinkClosed, NoCoordinator, PotluckError
from potluck.network import way_to
from potluck.node.config import node_url
from potluck.wire.link import WebSocketLink

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 3.0
"""Dialling costs next to nothing, and a coordinator that is back should have its nodes again within seconds."""


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
    """Dials the coordinator at this URL. say: receives sentences for the owner."""

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        self._url = url
        self._say = say
        self._pause_s = _FIRST_PAUSE_S
        """Seconds until the next attempt to connect."""
        self._was_admitted = False
        """Whether the coordinator has admitted this node before. Then it is there, whatever answers in its place."""

    async def dial(self) -> WebSocketLink:
        return await WebSocketLink.dial(node_url(self._url))

    def admitted(self) -> None:
        """Note that the coordinator has admitted this node."""
        self._was_admitted = True
        self._pause_s = _FIRST_PAUSE_S  # not before: a coordinator that is overrun accepts sockets, too

    async def lost(self, error: PotluckError) -> None:
        """Tell the owner why there is no link, and wait until it is time to dial again.

        Raises NoCoordinator when there never was a coordinator.
        """
        if isinstance(error, NoCoordinator) and not self._was_admitted:
            raise _no_coordinator(self._url, error) from error
        self._say(f"There is no connection to {way_to(self._url)} ({error}); trying again in {self._pause_s:.1f} s.")
        await self.pause()

    async def pause(self) -> None:
        """Wait until it is time to dial again."""
        # Each node waits a little differently, so that they do not all come back in the same moment.
        await asyncio.sleep(self._pause_s * random.uniform(0.8, 1.2))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
