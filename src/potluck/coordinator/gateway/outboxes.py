"""The frames that wait to be sent to nodes, in an outbox for each, so that a slow node holds up nobody else."""

from __future__ import annotations

import asyncio
from collections import deque

from potluck.coordinator.relay.relay import Outgoing
from potluck.wire.bundles import bundle
from potluck.wire.link import Link


class Outbox:
    """The frames that wait for one node."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._frames: deque[bytes] = deque()
        self._filled = asyncio.Event()

    def put(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._filled.set()

    @property
    def waiting(self) -> int:
        return len(self._frames)

    async def run(self) -> None:
        """Send frames until the link closes. Those of one turn of the event loop go together."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._frames:
                await self._link.send(bundle(self._frames))


class Outboxes:
    """The outboxes of all connected nodes, by their names."""

    def __init__(self) -> None:
        self._outboxes: dict[str, Outbox] = {}

    def open(self, node: str, link: Link) -> Outbox:
        """Open the node's outbox, which the caller runs and finally closes."""
        outbox = self._outboxes[node] = Outbox(link)
        return outbox

    def send(self, *outgoing: Outgoing) -> None:
        """Put frames into outboxes. Frames for nodes that have left are dropped."""
        for node, frame in outgoing:
            outbox = self._outboxes.get(node)
            if outbox is not None:
                outbox.put(frame)

    def waiting(self, node: str) -> int:
        """The frames that wait for the node."""
        outbox = self._outboxes.get(node)
        return outbox.waiting if outbox is not None else 0

    def close(self, node: str) -> None:
        """Drop the node's outbox and the frames that wait in it."""
        del self._outboxes[node]
