"""The shelf of responses that are kept for a while, so that the next request can go on with one. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
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
        self._kept: OrderedDict[tuple[Hashable, str], tuple[float, Kept]] = OrderedDict()
        self._names: defaultdict[Hashable, OrderedDict[str, None]] = defaultdict(OrderedDict)
        """The ids of each account's responses, the oldest first."""
        self._bytes: Counter[Hashable] = Counter()
        self._all_bytes = 0

    def put(self, whose: Hashable, identity: str, kept: Kept, now: float) -> bool:
        """Keep a response, for which the account's oldest ones make room. Returns whether it is kept: not if it is too
        large.
        """
        self._clear(now)
        if kept.size > MOST_OF_ONE:
            return False
        self.take(whose, identity)
        self._kept[whose, identity] = (now, kept)
        self._names[whose][identity] = None
        self._count(whose, kept.size)
        while len(self._names[whose]) > MOST_KEPT or self._bytes[whose] > MOST_BYTES:
            self.take(whose, next(iter(self._names[whose])))
        while self._all_bytes > MOST_IN_ALL:
            self.take(*next(iter(self._kept)))
        return True

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
        del self._names[whose][identity]
        self._count(whose, -kept.size)
        if not self._names[whose]:
            del self._names[whose], self._bytes[whose]
        return True

    def _count(self, whose: Hashable, size: int) -> None:
        self._bytes[whose] += size
        self._all_bytes += size

    def _clear(self, now: float) -> None:
        while self._kept:
            (whose, identity), (since, _) = next(iter(self._kept.items()))
            if now - since < KEPT_S:
                break
            self.take(whose, identity)
