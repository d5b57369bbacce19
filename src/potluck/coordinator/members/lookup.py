"""Looks up API keys for those who ask. Those who guess or ask too often are refused before anything is looked up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

from potluck.coordinator.members.desk import PATIENCE_S, Desk
from potluck.coordinator.members.keys import Key, Keys
from potluck.coordinator.members.limits import SharedLimits
from potluck.coordinator.members.store import digest_of
from potluck.coordinator.recent import Recent
from potluck.errors import RequestError

GUESSES = 30
"""The most requests a minute with wrong keys from one address."""

_MOST_GOOD = 4096
"""The number of good keys that are remembered, each by its digest: those that were made or used last."""


class Lookup:
    """Finds keys in the database, which is asked each time, so that a revoked key stops working at once.

    An address that has used up its guesses gets no more looks. Keys that are known to have been good are looked up even
    then, because many people may share an address. Other keys from one address are looked up one after the other, so
    that sending guesses at the same time does not raise the limit. clock: gives the time in seconds, for the limits.
    """

    def __init__(self, keys: Keys, desk: Desk, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._desk = desk
        self._clock = clock
        self._guesses = SharedLimits()
        self._requests = SharedLimits()
        self.limits = {"key": self._requests, "guess": self._guesses}
        """The limits of keys by their numbers, and of guesses by the addresses that they come from."""
        self._good: Recent[str, Key | None] = Recent(lambda: None, _MOST_GOOD)
        """What was found for a digest; None once that key was revoked."""
        for digest, key in keys.newest(_MOST_GOOD):
            self._good[digest] = key
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """The queue of each address whose keys are being looked up."""

    async def find(self, secret: str, address: str) -> Key | None:
        """The key with this secret, whose request is counted; None if it is wrong or was revoked.

        Raises RequestError when too many requests came with it, or with wrong keys from this address, and StoreError
        when the database fails, or has been away for some seconds.
        """
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while self._keys.made:
            made, key = self._keys.made.popleft()
            self._good[made] = key
        digest = digest_of(secret)
        if self._good.get(digest) is not None:
            return await self._find(secret, digest, address, deadline)
        async with self._lines.setdefault(address, asyncio.Lock()):
            wait_s = self._guesses.left_s(address, GUESSES, self._clock())
            if wait_s and self._good.get(digest) is None:
                raise too_many(f"More than {GUESSES} requests a minute came with wrong keys from this address.", wait_s)
            return await self._find(secret, digest, address, deadline)

    async def _find(self, secret: str, digest: str, address: str, deadline: float) -> Key | None:
        if (known := self._good.get(digest)) is not None:
            self._check(known, self._requests.left_s)
        key = await self._desk.ask_until(deadline, self._keys.find, secret)
        if known is not None or key is not None:
            self._good[digest] = key
        if key is None:
            self._guesses.wait_s(address, GUESSES, self._clock())
        else:
            self._check(key, self._requests.wait_s)
        return key

    def _check(self, key: Key, limit: Callable[[str, int, float], float]) -> None:
        if key.per_minute is not None and (wait_s := limit(key.id, key.per_minute, self._clock())):
            raise too_many(f"More than {key.per_minute} requests a minute came with this key.", wait_s)


def too_many(message: str, wait_s: float) -> RequestError:
    return RequestError(message, status=429, code="rate_limit_exceeded", retry_s=wait_s)
