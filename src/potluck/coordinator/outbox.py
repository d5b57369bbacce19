"""What is to be sent to one node."""

from __future__ import annotations

import asyncio
from collections import deque

from potluck.wire.link import Link


class Outbox:
    """Frames waiting for one node, so that a slow node holds up nobody else."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._frames: deque[bytes] = deque()
        self._filled = asyncio.Event()

    def put(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._filled.set()

    async def run(self) -> None:
        """Send until the link closes."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._frames:
                await self._link.send(self._frames.popleft())
