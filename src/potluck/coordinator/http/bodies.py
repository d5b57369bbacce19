"""Bounds the memory of bodies until they have been read: what came of them, and what is made of it.

Accounts share it, and each waits for its own bodies only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial

from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from potluck.errors import RequestError

_MOST_BYTES = 4 << 20
"""The bytes of all bodies that have not been read. The objects that are made of one take up to 15 times its bytes."""

_MOST_UNFINISHED = 32
"""The bodies of one account that have begun and not ended. The server itself may have read 256 KiB more of each."""
_SHORT = 64 << 10
"""The bytes of a body that need not wait. The server itself buffers as much for each request."""

_RETRY_S = 1.0
_END = "end_of_body"
"""The name in a request's state of what gives back the room of its body."""


class Body:
    """A body that has not been read, with the bytes of it that have come, and whether there are more to come."""

    def __init__(self) -> None:
        self.size = 0
        self.unfinished = False


class Shares:
    """The bodies of each account, the oldest first. Pure.

    Every account may have an equal share of all bytes. Its oldest body always goes on, so that one after the other is
    read, and so does a short one.
    """

    def __init__(self, most: int = _MOST_BYTES) -> None:
        self._most = most
        self._bodies: dict[Hashable, dict[Body, None]] = {}

    def begin(self, whose: Hashable, body: Body) -> None:
        """Count a body, which `end`s later. One that is counted already stays as old as it is."""
        self._bodies.setdefault(whose, {}).setdefault(body)

    def may_go_on(self, whose: Hashable, body: Body) -> bool:
        """Note that more of a body is to come. Returns False if too many of the account's bodies are unfinished."""
        body.unfinished = True
        return sum(one.unfinished for one in self._bodies[whose]) <= _MOST_UNFINISHED

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
    """The bodies that have not been read. One that finds no room is not received on, and so its sender has to wait."""

    def __init__(self, shares: Shares | None = None) -> None:
        self._shares = shares or Shares()
        self._changed = asyncio.Event()

    @contextmanager
    def received(self, whose: Hashable, scope: Scope, receive: Receive) -> Iterator[Receive]:
        """`receive` for a request of this account, whose body takes room until `body_is_read` or the block ends."""
        body = Body()
        end = partial(self._end, whose, body)
        scope.setdefault("state", {})[_END] = end

        async def bounded() -> Message:
            message = await receive()
            nbytes, more = len(message.get("body", b"")), message.get("more_body", False)
            if nbytes or more:  # a request without a body is never the oldest
                await self._add(whose, body, nbytes, more)
            return message

        try:
            yield bounded
        finally:
            end()

    async def _add(self, whose: Hashable, body: Body, nbytes: int, more: bool) -> None:
        self._shares.begin(whose, body)
        while nbytes and not self._shares.fits(whose, body, nbytes):
            await self._changed.wait()
        body.size += nbytes
        body.unfinished = False
        if more and not self._shares.may_go_on(whose, body):
            text = f"More than {_MOST_UNFINISHED} requests of this account or address are being received."
            raise RequestError(text, status=429, code="rate_limit_exceeded", retry_s=_RETRY_S)

    def _end(self, whose: Hashable, body: Body) -> None:
        self._shares.end(whose, body)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def body_is_read(request: Request) -> None:
    """Give back the room of a request's body, of which nothing is held any more. It has none without `Crowd`."""
    end: Callable[[], None] | None = getattr(request.state, _END, None)
    if end is not None:
        end()
