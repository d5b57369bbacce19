"""The shelf of responses that are kept for a while, so that the next request can go on with one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import NamedTuple

MOST_KEPT = 256
"""The responses of one account."""
MOST_OF_ONE = 2 << 20
"""The bytes of one response: as many as a usual body has, because they are read together."""
MOST_BYTES = 8 << 20
"""The bytes of one account's responses."""
MOST_IN_ALL = 64 << 20
"""The bytes of a shelf."""
KEPT_S = 24 * 3600.0


class Kept(NamedTuple):
    """A response and the messages that it answered, both as JSON."""

    response: bytes
    messages: bytes

    @property
    def size(self) -> int:
        return len(self.response) + len(self.messages)


class Shelf:
    """Responses by their account and id, the oldest first. All times are in seconds of one clock."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Hashable, str], tuple[float, Kept]] = {}
        self._counts: Counter[Hashable] = Counter()
        self._bytes: Counter[Hashable] = Counter()

    def put(self, whose: Hashable, identity: str, kept: Kept, now: float) -> None:
        """Keep a response, for which the account's oldest ones make room. One that is too large is not kept."""
        if kept.size > MOST_OF_ONE:
            return
        self._kept[whose, identity] = (now, kept)
        self._counts[whose] += 1
        self._bytes[whose] += kept.size
        self._clear(now)
        while self._counts[whose] > MOST_KEPT or self._bytes[whose] > MOST_BYTES:
            self.take(whose, next(name for owner, name in self._kept if owner == whose))
        while self._bytes.total() > MOST_IN_ALL:
            self.take(*next(iter(self._kept)))

    def get(self, whose: Hashable, identity: str, now: float) -> Kept | None:
        """The response; None if it is another account's, or is no longer kept."""
        self._clear(now)
        _, kept = self._kept.get((whose, identity), (now, None))
        return kept

    def take(self, whose: Hashable, identity: str) -> bool:
        """Take a response from the shelf. Returns whether it was there."""
        _, kept = self._kept.pop((whose, identity), (0, None))
        if kept is None:
            return False
        self._counts[whose] -= 1
        self._bytes[whose] -= kept.size
        if not self._counts[whose]:
            del self._counts[whose], self._bytes[whose]
        return True

    def _clear(self, now: float) -> None:
        while self._kept:
            (whose, identity), (since, _) = next(iter(self._kept.items()))
            if now - since < KEPT_S:
                break
            self.take(whose, identity)
