"""What is to be sent to the nodes: an outbox for each, so that a slow node holds up nobody else."""

from __future__ import annotations

import asyncio
from collections import deque

from potluck.coordinator.relay.relay import Outgoing
from potluck.wire.link import Link


class Outbox:
    """Frames waiting for one node."""

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


class Outboxes:
    """Of all nodes that are connected, by their names."""

    def __init__(self) -> None:
        self._outboxes: dict[str, Outbox] = {}

    def open(self, node: str, link: Link) -> Outbox:
        """The node's outbox; let it run. `close` it."""
        outbox = self._outboxes[node] = Outbox(link)
        return outbox

    def send(self, *outgoing: Outgoing) -> None:
        """Put frames into outboxes; those for nodes that have left are dropped."""
        for node, frame in outgoing:
            outbox = self._outboxes.get(node)
            if outbox is not None:
                outbox.put(frame)

    def close(self, node: str) -> None:
        """What still waits is not sent."""
        del self._outboxes[node]
