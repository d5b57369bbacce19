"""Watches all connections of a server, ends those that overstep a bound, and says so in the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable

from starlette.types import Scope

from potluck.webserver.seats import Seat, Seats

log = logging.getLogger(__name__)

_STUCK_S = 30.0
"""Seconds for which a client may read nothing of what it was sent."""
_CLOSING_S = 5.0
"""The same for a connection that is to close when it has read everything."""
_ENCRYPTED_S = 300.0
"""The same with TLS, where the buffer that can be seen does not shrink while a slow client reads."""
_REPORT_S = 10.0

_REQUESTS_PER_S, _BURST = 20.0, 400
"""The requests without a key, or with a wrong one, that are answered to one household: in a second, and at once."""

GAVE_WAY = "gave way to others"

_STANDING = "potluck.standing"
"""The key of a connection's standing in its ASGI scope."""


class Standing:
    """The standing of one connection with its server: its seat, and for how long it has owed something.

    owes: returns what the protocol has waited for too long at this time, or "".
    on_proven, on_vouched: are called when the other end has proven its key, and when it may stay.
    """

    def __init__(self, guard: Guard, seat: Seat, transport: asyncio.Transport) -> None:
        self.seat = seat
        self.transport = transport
        self.owes: Callable[[float], str] = lambda _: ""
        self.on_proven: Callable[[], None] = lambda: None
        self.on_vouched: Callable[[], None] = lambda: None
        self._is_vouched = False
        self._encrypted = transport.get_extra_info("sslcontext") is not None
        self._guard = guard
        self._read_at = guard.clock()
        """When the other end last read something, or had read everything."""
        self._unread = 0

    def vouch(self) -> None:
        """Note that the connection has proven who it is."""
        self._is_vouched = True
        self._guard.seats.vouch(self.seat)
        self.on_vouched()

    def doubt(self) -> bool:
        """Note that its next request has to prove itself again. Returns whether it had proven itself."""
        was_vouched, self._is_vouched = self._is_vouched, False
        self._guard.seats.doubt(self.seat, self._guard.clock())
        return was_vouched

    @property
    def has_unread(self) -> bool:
        """Whether the other end has not read all that it was sent. With TLS nobody knows how much is on its way."""
        return self._encrypted or self.transport.get_write_buffer_size() > 0

    def move(self, address: str) -> None:
        """Note the address for which a proxy has opened this connection."""
        self._guard.move(self, address)

    def cut(self, reason: str) -> None:
        """End the connection at once."""
        self._guard.cut(self, reason)

    def leave(self) -> None:
        self._guard.leave(self)

    def overdue(self, now: float) -> str:
        """The reason to end the connection now, or ""."""
        unread = self.transport.get_write_buffer_size()
        if unread == 0 or unread < self._unread:
            self._read_at = now
        self._unread = unread
        most_s = _ENCRYPTED_S if self._encrypted else _CLOSING_S if self.transport.is_closing() else _STUCK_S
        return "did not read their answers" if now - self._read_at > most_s else self.owes(now)


class Guard:
    """The guard of one server. seats: decide who may stay. clock: seconds."""

    def __init__(self, seats: Seats, clock: Callable[[], float] = time.monotonic) -> None:
        self.seats = seats
        self.clock = clock
        self._standings: dict[Seat, Standing] = {}
        self._cut: Counter[str] = Counter()
        self._asked: dict[str, float] = {}
        """For each household, the time at which strangers of it may again send _BURST requests at once."""
        self._reported = clock()

    def enter(self, transport: asyncio.Transport, address: str) -> Standing:
        """Give a new connection a seat. It, or another one, may have to go at once."""
        seat, gone = self.seats.take(address, self.clock())
        standing = self._standings[seat] = Standing(self, seat, transport)
        self._dismiss(gone)
        return standing

    def move(self, standing: Standing, address: str) -> None:
        """Count the connection with those of the address for which a proxy has opened it."""
        self._dismiss(self.seats.move(standing.seat, address, self.clock()))

    def leave(self, standing: Standing) -> None:
        self.seats.leave(standing.seat)
        self._standings.pop(standing.seat, None)

    def cut(self, standing: Standing, reason: str) -> None:
        """End a connection at once. A polite end would wait for a client that may not read."""
        self._cut[reason] += 1
        self.leave(standing)
        standing.transport.abort()

    def note_request(self, standing: Standing) -> None:
        """Note a request for which nobody vouched."""
        now, home = self.clock(), standing.seat.household
        self._asked[home] = max(self._asked.get(home, now), now) + 1 / _REQUESTS_PER_S

    def asks_too_often(self, standing: Standing) -> bool:
        """Whether strangers of this household have sent so many requests that the next one is not answered."""
        return self._asked.get(standing.seat.household, 0.0) - self.clock() > _BURST / _REQUESTS_PER_S

    def sweep(self) -> None:
        """End what is overdue, and from time to time log what was ended."""
        now = self.clock()
        for standing in list(self._standings.values()):
            if reason := standing.overdue(now):
                self.cut(standing, reason)
        self._asked = {home: until for home, until in self._asked.items() if until > now}
        if self._cut and now - self._reported >= _REPORT_S:
            told = ", ".join(f"{count} {reason}" for reason, count in self._cut.most_common())
            log.warning("Connections were closed: %s. %d are open.", told, len(self.seats))
            self._cut.clear()
            self._reported = now

    def _dismiss(self, seat: Seat | None) -> None:
        if seat is not None:
            self.cut(self._standings[seat], GAVE_WAY)


def stand(scope: Scope, standing: Standing) -> None:
    """Let the application find the standing of the connection from which this request has come."""
    scope[_STANDING] = standing


def vouch_for(scope: Scope) -> None:
    """Note that the sender of this request or the node on this socket has proven who it is."""
    if standing := _standing(scope):
        standing.vouch()


def note_proven(scope: Scope) -> None:
    """Note that the node on this socket has proven that it holds its key, so that its messages may be long."""
    if standing := _standing(scope):
        standing.on_proven()


def note_address(scope: Scope, address: str) -> None:
    """Note the address for which a trusted proxy has sent this request."""
    if standing := _standing(scope):
        standing.move(address)


def _standing(scope: Scope) -> Standing | None:
    """None outside our own server, as in tests that call the application itself."""
    standing: Standing | None = scope.get(_STANDING)
    return standing
