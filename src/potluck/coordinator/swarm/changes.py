"""Tells those who wait that the swarm's room or coverage may have grown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """The changes of a swarm. also: is called at each change, too."""

    def __init__(self, also: Callable[[], None] = lambda: None) -> None:
        self._also = also
        self._changed = asyncio.Event()

    def tell(self) -> None:
        """Let everyone who waits try again."""
        self._changed.set()
        self._changed = asyncio.Event()
        self._also()

    async def before(self, deadline: float) -> bool:
        """Wait for the next change. False if the loop's clock reaches `deadline` first."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True
