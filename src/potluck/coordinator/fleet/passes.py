"""Passes, with which a coordinator hands a request to another one: they say who asks, and are sealed with the fleet's
key for this one request.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from potluck.coordinator.fleet.records import FRESH_S, PASS, is_fresh, seal, unseal
from potluck.errors import RequestError, WireError
from potluck.wire.identity import Identity

HEADER = "Potluck-Pass"


class Pass(Struct, frozen=True):
    """A pass for one request. target: the public key of the coordinator for which it is. at: Unix time.

    digest: the SHA-256 of the body. account, admin, anonymous, models: the caller, whose request was counted already.
    address: the caller's.
    """

    target: bytes
    method: str
    path: str
    digest: bytes
    at: float
    nonce: bytes
    account: str
    admin: bool
    anonymous: bool
    models: tuple[str, ...]
    address: str


class Passes:
    """Issues and checks passes. fleet: the fleet's key. own: the public key of this coordinator. clock: Unix time."""

    def __init__(self, fleet: Identity, own: bytes, clock: Callable[[], float] = time.time) -> None:
        self._fleet = fleet
        self._own = own
        self._clock = clock
        self._used: dict[bytes, float] = {}
        """The nonces of passes that came, the oldest first, with the time."""

    def issue(
        self,
        target: bytes,
        method: str,
        path: str,
        body: bytes,
        *,
        account: str,
        admin: bool,
        anonymous: bool,
        models: tuple[str, ...],
        address: str,
    ) -> str:
        """The header's value. path: with the query."""
        digest, nonce = hashlib.sha256(body).digest(), secrets.token_bytes(16)
        made = Pass(target, method, path, digest, self._clock(), nonce, account, admin, anonymous, models, address)
        return base64.b64encode(seal(self._fleet, PASS, made)).decode()

    def check(self, text: str, method: str, path: str) -> Pass:
        """The pass in a header. Raises RequestError unless it is the fleet's, for this request, and new."""
        try:
            body = unseal(self._fleet.public, PASS, base64.b64decode(text, validate=True))
            found = msgspec.msgpack.decode(body, type=Pass)
        except (WireError, ValueError) as error:
            raise _refused("it is not sealed with this fleet's key") from error
        now = self._clock()
        if (found.target, found.method, found.path) != (self._own, method, path):
            raise _refused("it is for another request")
        if not is_fresh(found.at, now):
            raise _refused(f"its time is {abs(now - found.at):.0f} s off, and the machines' clocks must agree")
        if found.nonce in self._used:
            raise _refused("it was used before")
        self._note(found.nonce, now)
        return found

    def _note(self, nonce: bytes, now: float) -> None:
        self._used[nonce] = now
        while now - next(iter(self._used.values())) > 2 * FRESH_S:
            del self._used[next(iter(self._used))]


def _refused(reason: str) -> RequestError:
    return RequestError(f"This pass of a coordinator is refused: {reason}.", status=401, code="invalid_pass")
