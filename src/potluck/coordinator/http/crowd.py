"""Bounds how many requests of one account are under way at once, beside the bound on how many come in a minute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from potluck.coordinator.http.auth import OWNER, Caller
from potluck.coordinator.http.bodies import Bodies
from potluck.coordinator.http.errors import deny
from potluck.coordinator.http.pool import asker_of
from potluck.errors import RequestError

_OF_ACCOUNT = 256
"""The requests of an account that may be under way at once: twice what the largest benchmarks send."""
_OF_STRANGER = 32
"""The same for an address without a key."""
_RETRY_S = 1.0


class UnderWay:
    """The requests that are under way, by whose they are. Pure."""

    def __init__(self) -> None:
        self._counts: Counter[Hashable] = Counter()

    def enter(self, whose: Hashable, most: int) -> bool:
        """Count a request, which must `leave` later. Returns False, and does not, if there are so many already."""
        if self._counts[whose] >= most:
            return False
        self._counts[whose] += 1
        return True

    def leave(self, whose: Hashable) -> None:
        self._counts[whose] -= 1
        if not self._counts[whose]:
            del self._counts[whose]


class Crowd:
    """ASGI middleware behind `Auth`, which turns away requests of an account that has too many under way, and receives
    the bodies of the others in turn.

    The owner of a swarm for one machine may ask for any number, and what is open to everybody is not counted.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._under_way = UnderWay()
        self._bodies = Bodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = getattr(HTTPConnection(scope).state, "caller", None) if scope["type"] == "http" else None
        if caller is None:
            await self._app(scope, receive, send)
            return
        asker = asker_of(HTTPConnection(scope))
        with self._bodies.received(asker, scope, receive) as received:
            await self._admit(scope, received, send, asker, _most_of(caller))

    async def _admit(self, scope: Scope, receive: Receive, send: Send, whose: Hashable, most: int | None) -> None:
        if most is None:
            await self._app(scope, receive, send)
            return
        if not self._under_way.enter(whose, most):
            message = f"More than {most} requests of this account or address are under way."
            error = RequestError(message, status=429, code="rate_limit_exceeded", retry_s=_RETRY_S)
            await deny(scope, receive, send, error)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way.leave(whose)


def _most_of(caller: Caller) -> int | None:
    """How many requests of a caller may be under way at once; None means any number."""
    if caller.anonymous:
        return _OF_STRANGER
    return None if caller == OWNER else _OF_ACCOUNT
