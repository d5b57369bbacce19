"""Authentication: finds out who asks over HTTP, and what they may do, for everything but `/node`, `/health` and the
pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from potluck.coordinator.fleet.passes import HEADER, Passes
from potluck.coordinator.gateway.tickets import Tickets
from potluck.coordinator.http.elsewhere import stay_here
from potluck.coordinator.http.endpoint import Access
from potluck.coordinator.http.errors import deny
from potluck.coordinator.members.desk import Desk
from potluck.coordinator.members.keys import OWNER_ACCOUNT, PREFIX, Keys
from potluck.coordinator.members.limits import SharedLimits, take_of, taken_of
from potluck.coordinator.members.lookup import Lookup, too_many
from potluck.errors import PotluckError, RequestError
from potluck.webserver.guard import note_address, vouch_for
from potluck.webserver.seats import household
from potluck.wire.origin import is_loopback

_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")

_STRANGERS = 60
"""The most requests a minute from one address without a key."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The one who asks. account: whose work it is. models: the names of those that may be asked; empty means all."""

    account: str
    admin: bool = False
    anonymous: bool = False
    models: tuple[str, ...] = ()

    def may_see(self, account: str) -> bool:
        """Whether the caller may learn what this account does: it is the caller's own, or the caller is the owner."""
        return self.admin or (not self.anonymous and account == self.account)


OWNER = Caller(OWNER_ACCOUNT, admin=True)
"""The caller at this machine, in a swarm that is for this machine alone."""


class Policy(Protocol):
    """Finds out who asks. is_open: whether callers without a key may ask."""

    is_open: bool

    def check(self, connection: HTTPConnection) -> bool:
        """Returns whether whoever passes this check is the owner. Raises RequestError for a request or a socket that
        must not be accepted at all.
        """

    async def caller(self, connection: HTTPConnection) -> Caller:
        """The caller, whose request is counted. Raises RequestError when the caller cannot be identified, or asks too
        often.
        """

    def taken(self) -> dict[str, float]:
        """What was counted here since this was last asked: seconds of each limit's bucket, by limit and caller."""

    def taken_elsewhere(self, taken: Mapping[str, float]) -> None:
        """Count what another coordinator has counted, which told it by `taken`."""


class LocalPolicy:
    """The policy of a swarm for this machine alone: whoever reaches it is its owner, except through a proxy or a web
    page.

    origins: those of the pages that may ask all the same.
    """

    def __init__(self, origins: Collection[str] = ()) -> None:
        self._origins = frozenset(origins)
        self.is_open = False

    def check(self, connection: HTTPConnection) -> bool:
        headers = connection.headers
        if not _is_local(f"http://{headers.get('host', '')}"):  # a page's own name may be made to point here
            raise _forbidden("This swarm is for its own machine only: ask it as http://127.0.0.1, not by another name.")
        if any(name in headers for name in _FORWARDED):
            raise _forbidden("This swarm is for its own machine only: it cannot be reached through a proxy.")
        if not self._is_welcome(headers):
            message = "This swarm is for its own machine only: pages of other sites may not ask it, except with --cors."
            raise _forbidden(message)
        return True

    def _is_welcome(self, headers: Headers) -> bool:
        """Whether the page that asks may do so. Browsers name no origin for links, which are followed, nor for pictures
        and scripts, which a page of another site may not take from here.
        """
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site") != "cross-site" or headers.get("sec-fetch-mode") == "navigate"
        return origin in self._origins or _is_local(origin)

    async def caller(self, connection: HTTPConnection) -> Caller:
        return OWNER

    def taken(self) -> dict[str, float]:
        return {}

    def taken_elsewhere(self, taken: Mapping[str, float]) -> None:
        """Count nothing, because the owner may ask as often as it likes."""


class KeyPolicy:
    """The policy of a swarm with API keys. open: callers without one may ask as well, but come last.

    clock: seconds, for the limits.
    """

    def __init__(
        self, keys: Keys, *, open: bool, desk: Desk | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lookup = Lookup(keys, desk or Desk("keys"), clock)
        self.is_open = open
        self._strangers = SharedLimits()
        self._limits = {**self._lookup.limits, "stranger": self._strangers}
        self._clock = clock

    def check(self, connection: HTTPConnection) -> bool:
        return False

    async def caller(self, connection: HTTPConnection) -> Caller:
        secret = bearer(connection)
        if self.is_open and not secret.startswith(PREFIX):  # clients that insist on a key get "EMPTY" or "sk-…"
            return self._stranger(address_of(connection))
        if not secret:
            raise _unauthorized("This swarm is private: send an API key, as in 'Authorization: Bearer pk-…'.")
        key = await self._lookup.find(secret, address_of(connection))
        if key is None:
            raise _unauthorized("This API key is wrong or was revoked.")
        return Caller(key.account, admin=key.admin, models=tuple(key.models))

    def _stranger(self, address: str) -> Caller:
        if wait_s := self._strangers.wait_s(address, _STRANGERS, self._clock()):
            raise too_many(f"More than {_STRANGERS} requests a minute came without a key from this address.", wait_s)
        return Caller("", anonymous=True)

    def taken(self) -> dict[str, float]:
        return taken_of(self._limits)

    def taken_elsewhere(self, taken: Mapping[str, float]) -> None:
        take_of(self._limits, taken, self._clock())


class Auth:
    """ASGI middleware that checks every request and notes its `Caller` for the routes (`caller_of`).

    access_of: says who may use a path. passes: those with which other coordinators of the fleet hand requests over.
    """

    def __init__(
        self,
        app: ASGIApp,
        policy: Policy,
        tickets: Tickets,
        access_of: Callable[[str], Access],
        passes: Passes | None = None,
    ) -> None:
        self._app = app
        self._policy = policy
        self._tickets = tickets
        self._access_of = access_of
        self._passes = passes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        if connection.client is not None:
            note_address(scope, connection.client.host)
        try:
            await self._check(connection)
        except PotluckError as error:
            await deny(scope, receive, send, error)
            return
        await self._app(scope, receive, send)

    async def _check(self, connection: HTTPConnection) -> None:
        access = self._access_of(connection.scope["path"])
        is_owner = self._policy.check(connection)
        if connection.scope["type"] == "websocket":  # only nodes open them, who prove themselves there
            return
        if access is Access.PUBLIC:
            if is_owner:
                vouch_for(connection.scope)
            return
        if access is Access.WEIGHTS and self._tickets.model_of(bearer(connection)) is not None:
            vouch_for(connection.scope)
            return
        caller = self._handed_over(connection) or await self._policy.caller(connection)
        if caller.anonymous and access is not Access.ANY:
            raise _unauthorized("This request needs an API key: send it as in 'Authorization: Bearer pk-…'.")
        if access is Access.ADMIN and not caller.admin:
            raise _forbidden("This request needs an admin key.")
        connection.state.caller = caller
        vouch_for(connection.scope)

    def _handed_over(self, connection: HTTPConnection) -> Caller | None:
        """The caller of a request that another coordinator hands over, which has identified and counted them.

        Raises RequestError when the pass is not good.
        """
        text = connection.headers.get(HEADER)
        if text is None or self._passes is None:
            return None
        scope = connection.scope
        found = self._passes.check(text, scope["method"], path_of(connection))
        if found.anonymous and not self._policy.is_open:
            raise _unauthorized("This coordinator is private, and takes no requests without an API key.")
        scope["client"] = (found.address, 0)
        connection.state.digest = found.digest
        stay_here(connection)
        return Caller(found.account, found.admin, found.anonymous, found.models)


def caller_of(connection: HTTPConnection) -> Caller:
    """The caller, once `Auth` has let the request pass."""
    caller: Caller = connection.state.caller
    return caller


def bearer(connection: HTTPConnection) -> str:
    """The secret in the Authorization header, or in that of Anthropic's clients, or "".

    A key is known by its beginning, so the word before it may be missing.
    """
    given = connection.headers.get("authorization", "").strip()
    if given.startswith(PREFIX):
        return given
    scheme, _, secret = given.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else connection.headers.get("x-api-key", "").strip()


def address_of(connection: HTTPConnection) -> str:
    """The caller's address, or the network that stands for a household."""
    return household(connection.client.host) if connection.client is not None else ""


def path_of(connection: HTTPConnection) -> str:
    """The path and the query, as they are in a pass."""
    scope = connection.scope
    query = scope["query_string"].decode("latin-1")
    path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
    return f"{path}?{query}" if query else path


def _is_local(url: str) -> bool:
    try:
        return is_loopback(url)
    except ValueError:  # brackets that do not match
        return False


def _unauthorized(message: str) -> RequestError:
    return RequestError(message, status=401, code="invalid_api_key")


def _forbidden(message: str) -> RequestError:
    return RequestError(message, status=403, code="forbidden")
