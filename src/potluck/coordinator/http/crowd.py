"""Bounds how many requests of one account are under way at once, beside the bound on how many come in a minute."""

from __future__ import annotations

from collections import Counter

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from potluck.coordinator.http.auth import Caller
from potluck.coordinator.http.errors import error_response
from potluck.errors import RequestError

_OF_ACCOUNT = 256
"""The requests of an account that may be under way at once: twice what the largest benchmarks send."""
_OF_STRANGER = 32
"""The same for an address without a key."""
_RETRY_S = 1.0


class UnderWay:
    """The requests that are under way, by whose they are. Pure."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def enter(self, whose: str, most: int) -> bool:
        """Count a request, which must `leave` later. Returns False, and does not, if there are so many already."""
        if self._counts[whose] >= most:
            return False
        self._counts[whose] += 1
        return True

    def leave(self, whose: str) -> None:
        self._counts[whose] -= 1
        if not self._counts[whose]:
            del self._counts[whose]


class Crowd:
    """ASGI middleware behind `Auth`, which turns away what an account asks for beside too many other requests.

    The owner of a swarm for one machine may ask for any number, and what is open to everybody is not counted.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._under_way = UnderWay()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = getattr(HTTPConnection(scope).state, "caller", None) if scope["type"] == "http" else None
        if caller is None or caller.per_minute is None:
            await self._app(scope, receive, send)
            return
        whose, most = _share_of(caller)
        if not self._under_way.enter(whose, most):
            message = f"More than {most} requests of this account or address are under way."
            error = RequestError(message, status=429, code="rate_limit_exceeded", retry_s=_RETRY_S)
            await error_response(Request(scope), error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way.leave(whose)


def _share_of(caller: Caller) -> tuple[str, int]:
    """The account or address whose requests are counted together, and how many there may be."""
    return (caller.name, _OF_STRANGER) if caller.anonymous else (f"account {caller.account}", _OF_ACCOUNT)
