"""Decides which connections a server keeps when too many come. Pure: times come in.

A connection is a stranger until somebody vouches for it: a request with a valid key, or a node that was admitted.
Strangers cost their sender nothing, so there is room for a limited number of them: in total, and from one household.
When there are too many, the oldest of the largest crowd gives way, because an honest client says at once what it wants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

_GRACE_S = 1.0
"""Seconds in which no stranger gives way to one of its own household: it may not have been heard yet."""


@dataclass(slots=True, eq=False)
class Seat:
    """A connection's place. household: whom its address stands for. since: when it became a stranger."""

    household: str
    since: float


class Seats:
    """The seats of a server. most: all of them. strangers, of_household: the most strangers, in total and of one.

    is_shared: whether many clients share an address, because it is that of a proxy; None means that none is.
    """

    def __init__(
        self, most: int, strangers: int, of_household: int, is_shared: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._most = most
        self._most_strangers = strangers
        self._most_of_household = of_household
        self._is_shared = is_shared
        self._vouched: set[Seat] = set()
        self._crowds: dict[str, dict[Seat, None]] = {}
        """The strangers of each household, the oldest first."""
        self._strangers = 0

    def __len__(self) -> int:
        return self._strangers + len(self._vouched)

    def take(self, address: str, now: float) -> tuple[Seat, Seat | None]:
        """A seat for a new connection, and the seat that has to go for it, which may be the new one."""
        seat = Seat(household(address), now)
        self._enter(seat)
        return seat, self._to_go(seat, now)

    def move(self, seat: Seat, address: str, now: float) -> Seat | None:
        """Note the address for which a proxy has opened this connection. Returns the seat that has to go, if any."""
        home = household(address)
        if home == seat.household:
            return None
        is_stranger = self._leave_crowd(seat)
        seat.household = home
        if not is_stranger:
            return None
        self._enter(seat)
        return self._to_go(seat, now)

    def vouch(self, seat: Seat) -> None:
        """Note that the connection has proven who it is."""
        if self._leave_crowd(seat):
            self._vouched.add(seat)

    def doubt(self, seat: Seat, now: float) -> None:
        """Note that what proved the connection has ended: the next request has to prove itself again."""
        if seat in self._vouched:
            self._vouched.remove(seat)
            seat.since = now
            self._enter(seat)

    def leave(self, seat: Seat) -> None:
        self._vouched.discard(seat)
        self._leave_crowd(seat)

    def _enter(self, seat: Seat) -> None:
        self._crowds.setdefault(seat.household, {})[seat] = None
        self._strangers += 1

    def _leave_crowd(self, seat: Seat) -> bool:
        crowd = self._crowds.get(seat.household, {})
        if seat not in crowd:
            return False
        del crowd[seat]
        self._strangers -= 1
        if not crowd:
            del self._crowds[seat.household]
        return True

    def _to_go(self, newcomer: Seat, now: float) -> Seat | None:
        own = self._crowds[newcomer.household]
        if len(own) > self._most_of_household and not self._is_shared(newcomer.household):
            crowd = own
        elif self._strangers > self._most_strangers or len(self) > self._most:
            crowd = max(self._crowds.values(), key=len)
        else:
            return None
        oldest = next(iter(crowd))
        is_early = now - oldest.since < _GRACE_S
        return newcomer if is_early and newcomer in crowd else oldest


def household(address: str) -> str:
    """The household that an address stands for, because with IPv6 everybody has 2 ** 64 addresses. "" if it is none."""
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:  # a socket without one, or a proxy that does not know it
        return ""
    if known.version == 6 and known.ipv4_mapped is not None:
        known = known.ipv4_mapped
    return str(known) if known.version == 4 else str(ip_network((known, 64), strict=False))
