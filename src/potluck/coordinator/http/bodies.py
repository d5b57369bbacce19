"""Bounds the memory of bodies that are being received. Accounts share it, and each waits for its own bodies only."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

_MOST_BYTES = 32 << 20
"""The bytes of all bodies that are being received."""

_SHORT = 64 << 10
"""The bytes of a body that need not wait. The server itself buffers as much for each request."""


class Body:
    """A body that is being received, with the bytes of it that have come."""

    def __init__(self) -> None:
        self.size = 0


class Shares:
    """The bodies of each account, the oldest first. Pure.

    Every account may have an equal share of all bytes. Its oldest body always goes on, so that one after the other
    ends, and so does a short one.
    """

    def __init__(self, most: int = _MOST_BYTES) -> None:
        self._most = most
        self._bodies: dict[Hashable, dict[Body, None]] = {}

    def begin(self, whose: Hashable) -> Body:
        body = Body()
        self._bodies.setdefault(whose, {})[body] = None
        return body

    def fits(self, whose: Hashable, body: Body, more: int) -> bool:
        """Whether a body may grow by more bytes now."""
        own = self._bodies[whose]
        if body is next(iter(own)) or body.size + more <= _SHORT:
            return True
        return sum(one.size for one in own) + more <= self._most // len(self._bodies)

    def end(self, whose: Hashable, body: Body) -> None:
        own = self._bodies.get(whose, {})
        own.pop(body, None)
        if not own:
            self._bodies.pop(whose, None)


class Bodies:
    """The bodies that are being received. One that finds no room is not read on, and so its sender has to wait."""

    def __init__(self, shares: Shares | None = None) -> None:
        self._shares = shares or Shares()
        self._changed = asyncio.Event()

    @contextmanager
    def received(self, whose: Hashable, receive: Receive) -> Iterator[Receive]:
        """`receive` for a request of this account, whose body takes room until it is complete or the block ends."""
        body = self._shares.begin(whose)

        async def bounded() -> Message:
            message = await receive()
            await self._grow(whose, body, len(message.get("body", b"")))
            if not message.get("more_body", False):
                self._end(whose, body)
            return message

        try:
            yield bounded
        finally:
            self._end(whose, body)

    async def _grow(self, whose: Hashable, body: Body, nbytes: int) -> None:
        while nbytes and not self._shares.fits(whose, body, nbytes):
            await self._changed.wait()
        body.size += nbytes

    def _end(self, whose: Hashable, body: Body) -> None:
        self._shares.end(whose, body)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
