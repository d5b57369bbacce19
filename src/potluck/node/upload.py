"""Limits how much a node sends, to the coordinator and to other nodes, as its owner wants."""

from __future__ import annotations

import asyncio
import threading
import time

from potluck.wire.link import Link

_BURST_S = 0.1
"""Seconds of the rate that may be sent at once after a pause, so that no small frame waits on a quiet connection."""


class Bucket:
    """Lets through `bytes_per_s` on average. Pure: times are passed in. A piece is never cut."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._paid = 0.0
        """The time at which everything that was let through has been paid for."""

    def take(self, nbytes: int, now: float) -> float:
        """The seconds that this many bytes have to wait. The next caller comes after them."""
        begin = max(self._paid, now)
        self._paid = begin + nbytes / self._bytes_per_s
        return max(0.0, begin - _BURST_S - now)


class Upload:
    """One rate for everything that a node sends, from any thread and event loop."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bucket = Bucket(bytes_per_s)
        self._lock = threading.Lock()

    async def wait(self, nbytes: int) -> None:
        """Wait until this many bytes may be sent."""
        with self._lock:
            wait_s = self._bucket.take(nbytes, time.monotonic())
        if wait_s:
            await asyncio.sleep(wait_s)


class PacedLink:
    """A link that sends in order and no faster than `upload` allows."""

    def __init__(self, link: Link, upload: Upload) -> None:
        self._link = link
        self._upload = upload
        self._turn = asyncio.Lock()

    async def send(self, message: bytes) -> None:
        async with self._turn:
            await self._upload.wait(len(message))
            await self._link.send(message)

    async def receive(self) -> bytes:
        return await self._link.receive()

    async def close(self) -> None:
        await self._link.close()
