"""Bounds the memory of bodies until they have been read: what came of them, and what is made of it.

Accounts share it, and each waits for its own bodies only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from potluck.coordinator.http.inflating import CODINGS, PIECE, Inflating, coding_of
from potluck.coordinator.http.rota import Asker

_MOST_BYTES = 4 << 20
"""The bytes of all bodies that have not been read. The objects that are made of one take up to 15 times its bytes."""

_SHORT = PIECE
"""The bytes of a body that need not wait. The server itself may have read as much of each request."""
_STRANGERS_AT_ONCE = 4
"""The addresses without a key whose oldest bodies go on however long they are. Anybody can have many addresses."""

_END = "end_of_body"
"""The name in a request's state of what gives back the room of its body."""


class Body:
    """A body that has not been read. length: its bytes in all, 0 if that is not known. size: those that have come.

    Both are of the body as it is before it was compressed.
    """

    def __init__(self, length: int = 0) -> None:
        self.length = length
        self.size = 0


class Shares:
    """The bodies of each account, the oldest first. Pure.

    Every account may have an equal share of all bytes. Its oldest body always goes on, so that one after the other is
    read, and so does a short one. Of those without an account, few may go on at once.
    """

    def __init__(self, most: int = _MOST_BYTES) -> None:
        self._most = most
        self._bodies: dict[Asker, dict[Body, None]] = {}

    def begin(self, whose: Asker, body: Body) -> None:
        """Count a body, which `end`s later."""
        self._bodies.setdefault(whose, {})[body] = None

    def fits(self, whose: Asker, body: Body) -> bool:
        """Whether a body may grow by a piece now. One that is complete needs no room."""
        own = self._bodies.get(whose, {})
        if body not in own or (body.length or body.size + 1) <= max(body.size, _SHORT):
            return True
        if body is next(iter(own)) and self._is_favoured(whose):
            return True
        return sum(one.size for one in own) + _SHORT <= self._most // len(self._bodies)

    def end(self, whose: Asker, body: Body) -> None:
        own = self._bodies.get(whose, {})
        own.pop(body, None)
        if not own:
            self._bodies.pop(whose, None)

    def _is_favoured(self, whose: Asker) -> bool:
        """Whether the oldest body of this account always goes on."""
        return not whose.stranger or whose in islice((one for one in self._bodies if one.stranger), _STRANGERS_AT_ONCE)


class Bodies:
    """The bodies that have not been read. One that finds no room is not received on, and so its sender has to wait."""

    def __init__(self, shares: Shares | None = None) -> None:
        self._shares = shares or Shares()
        self._changed = asyncio.Event()

    @contextmanager
    def received(self, whose: Asker, scope: Scope, receive: Receive) -> Iterator[Receive]:
        """`receive` for a request of this account, whose body takes room until `body_is_read` or the block ends."""
        headers = Headers(scope=scope)
        length, coding = int(headers.get("content-length", 0)), coding_of(headers)
        if not length and "transfer-encoding" not in headers:  # a request without a body is never the oldest
            yield receive
            return
        body = Body(0 if coding else length)
        if coding in CODINGS:
            receive = Inflating(coding, receive)
        end = partial(self._end, whose, body)
        scope.setdefault("state", {})[_END] = end
        self._shares.begin(whose, body)

        async def bounded() -> Message:
            while not self._shares.fits(whose, body):
                await self._changed.wait()
            message = await receive()
            body.size += len(message.get("body", b""))
            if not message.get("more_body", False):
                body.length = body.size
            return message

        try:
            yield bounded
        finally:
            end()

    def _end(self, whose: Asker, body: Body) -> None:
        self._shares.end(whose, body)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def body_is_read(request: Request) -> None:
    """Give back the room of a request's body, of which nothing is held any more. It has none without `Crowd`."""
    end: Callable[[], None] | None = getattr(request.state, _END, None)
    if end is not None:
        end()
    request.state.body = b""
