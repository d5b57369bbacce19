"""How much a node may send, as its owner says: over its line to the coordinator, and to nodes that fetch weights."""

from __future__ import annotations

import asyncio
import threading
import time

from potluck.wire.link import Link

_BURST_S = 0.1
"""So much of the rate may be sent at once after a pause: no small frame waits on a line that is not full."""


class Bucket:
    """Pure: times come in. On average no more than `bytes_per_s` are let through; a piece is never cut."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._paid = 0.0
        """When all that was let through will have had its time."""

    def take(self, nbytes: int, now: float) -> float:
        """How many seconds so many bytes have to wait; whoever asks next comes after them."""
        begin = max(self._paid, now)
        self._paid = begin + nbytes / self._bytes_per_s
        return max(0.0, begin - _BURST_S - now)


class Upload:
    """One rate for all that a node sends, from any thread and event loop."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bucket = Bucket(bytes_per_s)
        self._lock = threading.Lock()

    async def wait(self, nbytes: int) -> None:
        """Until so many bytes may be sent."""
        with self._lock:
            wait_s = self._bucket.take(nbytes, time.monotonic())
        if wait_s:
            await asyncio.sleep(wait_s)


class PacedLink:
    """A link that sends no faster than `upload` allows, in the order in which it was asked to."""

    def __init__(self, link: Link, upload: Upload) -> None:
        self._link = link
        self._upload = upload
        self._turn = asyncio.Lock()

    async def send(self, frame: bytes) -> None:
        async with self._turn:
            await self._upload.wait(len(frame))
            await self._link.send(frame)

    async def receive(self) -> bytes:
        return await self._link.receive()

    async def close(self) -> None:
        await self._link.close()
