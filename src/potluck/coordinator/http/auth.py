"""Authentication: finds out who asks over HTTP, and what they may do, for everything but `/node`, `/health` and the
pages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Protocol

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from potluck.coordinator.gateway.tickets import Tickets
from potluck.coordinator.http.endpoint import Access
from potluck.coordinator.http.errors import error_response
from potluck.coordinator.members.keys import OWNER_ACCOUNT, PER_MINUTE, PREFIX, Keys
from potluck.coordinator.members.limits import Limits
from potluck.errors import PotluckError, RequestError
from potluck.wire.origin import is_loopback

_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")

_STRANGERS = 60
"""The most requests a minute from one address without a key."""

_GUESSES = 30
"""The most requests a minute with wrong keys from one address."""

_NO_KEY = "none"
"""The texts that people use as a key when OpenAI's client insists on one."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The one who asks. account: whose work it is. name: whose requests are counted together. per_minute: None means
    any number.
    """

    account: str
    name: str
    admin: bool = False
    anonymous: bool = False
    per_minute: int | None = PER_MINUTE


OWNER = Caller(OWNER_ACCOUNT, "owner", admin=True, per_minute=None)
"""The caller at this machine, in a swarm that is for this machine alone."""


class Policy(Protocol):
    """Finds out who asks."""

    def check(self, connection: HTTPConnection) -> None:
        """Raises RequestError for a request or a socket that must not be accepted at all."""

    async def caller(self, connection: HTTPConnection) -> Caller:
        """The caller. Raises RequestError when the caller cannot be identified."""


class LocalPolicy:
    """The policy of a swarm for this machine alone: whoever reaches it is its owner, except through a proxy or a web
    page.
    """

    def check(self, connection: HTTPConnection) -> None:
        headers = connection.headers
        if not _is_local(f"http://{headers.get('host', '')}"):  # a page's own name may be made to point here
            raise _forbidden("This swarm is for its own machine only: ask it as http://127.0.0.1, not by another name.")
        if any(name in headers for name in _FORWARDED):
            raise _forbidden("This swarm is for its own machine only: it cannot be reached through a proxy.")
        if not _is_local(headers.get("origin", "http://localhost")):  # browsers send it; pages may not read our answer,
            raise _forbidden(
                "This swarm is for its own machine only: pages of other sites may not ask it."
            )  # but may ask

    async def caller(self, connection: HTTPConnection) -> Caller:
        return OWNER


class KeyPolicy:
    """The policy of a swarm with API keys. open: callers without one may ask as well, but come last."""

    def __init__(self, keys: Keys, *, open: bool) -> None:
        self._keys = keys
        self._open = open

    def check(self, connection: HTTPConnection) -> None:
        pass

    async def caller(self, connection: HTTPConnection) -> Caller:
        secret = bearer(connection)
        if self._open and secret in ("", _NO_KEY):
            return _anonymous(connection)
        if not secret:
            raise _unauthorized("This swarm is private: send an API key, as in 'Authorization: Bearer pk-…'.")
        # On a thread: the database may be slow, and frames do not wait for it.
        key = await asyncio.to_thread(self._keys.find, secret) if secret.startswith(PREFIX) else None
        if key is None:
            raise _unauthorized("This API key is wrong or was revoked.")
        return Caller(key.account, key.id, admin=key.admin, per_minute=key.per_minute)


class Auth:
    """ASGI middleware that checks every request and notes its `Caller` for the routes (`caller_of`).

    access_of: who may ask for what lies at a path.
    """

    def __init__(
        self,
        app: ASGIApp,
        policy: Policy,
        tickets: Tickets,
        access_of: Callable[[str], Access],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._policy = policy
        self._tickets = tickets
        self._access_of = access_of
        self._clock = clock
        self._limits = Limits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        try:
            await self._check(connection)
        except PotluckError as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})  # before it was accepted: the server answers 403
                return
            await error_response(Request(scope), error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _check(self, connection: HTTPConnection) -> None:
        access = self._access_of(connection.scope["path"])
        self._policy.check(connection)
        if access is Access.PUBLIC:
            return
        if access is Access.WEIGHTS and self._tickets.holds(bearer(connection)):
            return
        caller = await self._caller(connection)
        if caller.anonymous and access is not Access.ANY:
            raise _unauthorized("This request needs an API key: send it as in 'Authorization: Bearer pk-…'.")
        if access is Access.ADMIN and not caller.admin:
            raise _forbidden("This request needs an admin key.")
        self._count(caller)
        connection.state.caller = caller

    async def _caller(self, connection: HTTPConnection) -> Caller:
        """The caller. Only wrong keys are counted by address, because behind a proxy many callers share one."""
        try:
            return await self._policy.caller(connection)
        except RequestError as error:
            guesser = f"guesses from {_address(connection)}"
            wait_s = self._limits.wait_s(guesser, _GUESSES, self._clock()) if bearer(connection) else 0.0
            if not wait_s:
                raise
            message = f"More than {_GUESSES} requests a minute came with wrong keys from this address."
            raise RequestError(message, status=429, code="rate_limit_exceeded", retry_s=wait_s) from error

    def _count(self, caller: Caller) -> None:
        if caller.per_minute is None:
            return
        wait_s = self._limits.wait_s(caller.name, caller.per_minute, self._clock())
        if wait_s:
            message = f"More than {caller.per_minute} requests a minute came with this key or from this address."
            raise RequestError(message, status=429, code="rate_limit_exceeded", retry_s=wait_s)


def caller_of(connection: HTTPConnection) -> Caller:
    """The caller, once `Auth` has let the request pass."""
    caller: Caller = connection.state.caller
    return caller


def bearer(connection: HTTPConnection) -> str:
    """The secret in the Authorization header, or ""."""
    scheme, _, secret = connection.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def _anonymous(connection: HTTPConnection) -> Caller:
    return Caller("", f"address {_address(connection)}", anonymous=True, per_minute=_STRANGERS)


def _address(connection: HTTPConnection) -> str:
    return _household(connection.client.host) if connection.client is not None else ""


def _household(address: str) -> str:
    """The household that an address stands for, because with IPv6 everybody has 2 ** 64 addresses."""
    try:
        known = ip_address(address)
    except ValueError:  # a socket without one
        return address
    return str(known) if known.version == 4 else str(ip_network((known, 64), strict=False))


def _is_local(url: str) -> bool:
    try:
        return is_loopback(url)
    except ValueError:  # brackets that do not match
        return False


def _unauthorized(message: str) -> RequestError:
    return RequestError(message, status=401, code="invalid_api_key")


def _forbidden(message: str) -> RequestError:
    return RequestError(message, status=403, code="forbidden")
