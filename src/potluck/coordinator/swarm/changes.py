"""Tells those who wait that the swarm's room or coverage may have grown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from potluck.coordinator.relay.pending import stopped


class Changes:
    """The changes of a swarm. also: is called at each change, too."""

    def __init__(self, also: Callable[[], None] = lambda: None) -> None:
        self._also = also
        self._changed = asyncio.Event()
        self._stopped = False

    def tell(self) -> None:
        """Let everyone who waits try again."""
        self._changed.set()
        self._changed = asyncio.Event()
        self._also()

    def stop(self) -> None:
        """Let nobody wait any more, because the coordinator is stopping."""
        self._stopped = True
        self.tell()

    async def before(self, deadline: float) -> bool:
        """Wait for the next change. False if the loop's clock reaches `deadline` first.

        Raises Unavailable when the coordinator is stopping.
        """
        try:
            async with asyncio.timeout_at(deadline):
                if not self._stopped:
                    await self._changed.wait()
        except TimeoutError:
            return False
        if self._stopped:
            raise stopped()
        return True
