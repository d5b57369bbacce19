"""Links, which are two-way pipes of frames: a web-socket, or two queues of one process (for tests and embedders)."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Protocol

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from potluck.errors import LinkClosed
from potluck.wire.bundles import Unbundled
from potluck.wire.dialling import open_socket

CLOSED = b""
"""The item that `MemoryLink` puts into the other end's queue to say that it is closed; no frame is empty."""


class Link(Protocol):
    async def send(self, message: bytes) -> None:
        """Send a frame, or a bundle of frames. Raises LinkClosed when the other end is gone."""

    async def receive(self) -> bytes:
        """The next frame; those of a bundle come one after the other, without a turn of the event loop in between.

        Raises LinkClosed when the other end is gone, WireError for a malformed bundle.
        """

    async def close(self) -> None: ...


class BundledLink(ABC):
    """A link over which messages come that may be bundles, whose frames it also gives together."""

    def __init__(self) -> None:
        self._received = Unbundled()

    @abstractmethod
    async def _message(self) -> bytes:
        """The next message. Raises LinkClosed when the other end is gone, WireError for one that cannot be a frame."""

    @abstractmethod
    async def send(self, message: bytes) -> None:
        """Send a message, as `Link.send` does."""

    @abstractmethod
    async def close(self) -> None:
        """Close the link."""

    async def receive(self) -> bytes:
        """The next frame, as `Link.receive` gives it."""
        await self._wait()
        return self._received.pop()

    async def receive_all(self) -> list[bytes]:
        """The frames that have come and were not received yet, or else those of the next message. Raises as `receive`
        does.
        """
        await self._wait()
        return self._received.pop_all()

    async def _wait(self) -> None:
        """Wait until there are frames."""
        while not self._received:
            self._received.add(await self._message())


class WebSocketLink(BundledLink):
    """The node's end of a link: a web-socket that it has dialled."""

    def __init__(self, connection: ClientConnection) -> None:
        super().__init__()
        self._connection = connection

    @classmethod
    async def dial(cls, url: str) -> WebSocketLink:
        """Open `ws://…`. Raises as `open_socket` does."""
        return cls(await open_socket(url))

    @property
    def local_host(self) -> str:
        """The address of this machine by which it reaches the other end."""
        return str(self._connection.local_address[0])

    async def send(self, message: bytes) -> None:
        try:
            await self._connection.send(message)
        except ConnectionClosed as error:
            raise LinkClosed(str(error)) from error

    async def _message(self) -> bytes:
        try:
            return await self._connection.recv(decode=False)
        except ConnectionClosed as error:
            raise LinkClosed(str(error)) from error

    async def close(self) -> None:
        await self._connection.close()


class MemoryLink(BundledLink):
    """One end of a pipe inside this process; `pair` makes both. `closed` is set for both ends at once."""

    def __init__(self, incoming: asyncio.Queue[bytes], outgoing: asyncio.Queue[bytes], closed: asyncio.Event) -> None:
        super().__init__()
        self._incoming = incoming
        self._outgoing = outgoing
        self._closed = closed

    @classmethod
    def pair(cls) -> tuple[MemoryLink, MemoryLink]:
        one: asyncio.Queue[bytes] = asyncio.Queue()
        other: asyncio.Queue[bytes] = asyncio.Queue()
        closed = asyncio.Event()
        return cls(one, other, closed), cls(other, one, closed)

    async def send(self, message: bytes) -> None:
        if self._closed.is_set():
            raise LinkClosed("The link is closed.")
        self._outgoing.put_nowait(message)

    async def _message(self) -> bytes:
        if self._closed.is_set() and self._incoming.empty():
            raise LinkClosed("The link is closed.")
        message = await self._incoming.get()
        if message == CLOSED:
            raise LinkClosed("The link is closed.")
        return message

    async def close(self) -> None:
        self._closed.set()
        self._outgoing.put_nowait(CLOSED)
        self._incoming.put_nowait(CLOSED)
