"""The membership of a coordinator in its fleet: it tells the others what it serves and what is used, and hears them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import msgspec

from potluck import __version__
from potluck.coordinator.fleet.bus import Bucket, Bus
from potluck.coordinator.fleet.directory import LEASE_S, Directory
from potluck.coordinator.fleet.records import (
    FRESH_S,
    NEWS,
    RECORDS,
    Marked,
    ModelRecord,
    News,
    Record,
    Told,
    Usage,
    name_of,
    news_of,
    record_of,
    seal,
)
from potluck.coordinator.topic import Topic
from potluck.errors import BusAway, IdentityError, PotluckError, StoreError, WireError
from potluck.wire.identity import Identity, fingerprint

log = logging.getLogger(__name__)

STATE = Bucket("potluck", ttl_s=60.0)
"""The records of coordinators. Those that are gone are forgotten after a minute at the latest."""
_OWNER = Bucket("potluck-fleet")
_KEY = "key"
"""The name under which the fleet's public key stands there: whoever has another one belongs to another fleet."""

_TICK_S = 0.25
_RENEW_S = 2.0
"""Seconds after which a record is renewed even if nothing has changed."""
_LOAD_S = 0.5
"""Seconds after which a record is renewed if only the load has changed."""
_USAGE_S = 1.0
_REREAD_S = 60.0
_AGAIN_S = 5.0
"""Seconds after which the database is asked again that did not answer."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A coordinator's own part. models: what it serves now. usage: what was used here since this was last called.

    hear: is told the news of others. catch_up: is called when news may have been missed, and every minute; it may raise
    StoreError.
    """

    models: Callable[[], tuple[ModelRecord, ...]]
    usage: Callable[[], Usage]
    hear: Callable[[News], None]
    catch_up: Callable[[], Awaitable[None]]


class Fleet:
    """The fleet as one coordinator sees it. key: the fleet's. own: the coordinator's public key. url: its own.

    changed: tells that coordinators have come or gone, or what they serve.
    """

    def __init__(
        self,
        bus: Bus,
        key: Identity,
        own: bytes,
        url: str,
        clock: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self.bus = bus
        self.key = key
        self.url = url
        self.own = own
        self.directory = Directory(own)
        self.changed: Topic[None] = Topic()
        self._clock = clock
        self._unix = unix
        self._share: Share | None = None
        self._started = unix()
        self._number = 0
        self.own_models: tuple[ModelRecord, ...] = ()
        """What is served here, as it was a moment ago: with many nodes it takes a while to find out."""
        self._sent: tuple[ModelRecord, ...] = ()
        self._sent_at = self._used_at = self._read_at = float("-inf")
        self._unsent: dict[bytes, Marked] = {}
        self._warned: set[str] = set()
        self._known: list[Record] = []
        self._catching: asyncio.Task[None] | None = None
        self._put_at = float("-inf")
        """When this coordinator's record was last written."""
        self._told = 0
        """The news that were told so far."""
        self._heard: dict[bytes, tuple[float, int]] = {}
        """The latest news of each sender: what came before is not heard again."""
        self._up = asyncio.Event()
        self._foreign = ""
        bus.on_up = self._is_up
        bus.watch(STATE, RECORDS, self._heard_record)
        bus.listen(NEWS, self._heard_news)

    def _is_up(self) -> None:
        self._read_at = self._sent_at = float("-inf")
        self._up.set()

    @property
    def others(self) -> list[Record]:
        """The coordinators that serve now."""
        return self.directory.others(self._clock())

    @property
    def known(self) -> list[Record]:
        """The coordinators where nodes may serve: while NATS is away, those that served before."""
        if self._clock() - self._put_at <= LEASE_S or not self._known:
            self._known = self.others
        return self._known

    @asynccontextmanager
    async def kept(self, share: Share, patience_s: float = 10.0) -> AsyncIterator[None]:
        """Take part while the block runs. patience_s: how long to wait for NATS before the block begins without it.

        Raises IdentityError when the NATS server belongs to a fleet with another key, and PotluckError when it refuses
        the token.
        """
        self._share, self.own_models = share, share.models()
        async with self.bus.connected():
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._up.wait()
            if "authorization" in self.bus.fault.lower():
                raise PotluckError("The NATS server refuses what --fleet shows it: give the token that opens it.")
            if not self.bus.is_up:
                log.warning(
                    "The fleet's NATS server does not answer (%s): this coordinator begins alone.", self.bus.fault
                )
            else:
                await self._check_key()
            if self._foreign:
                raise IdentityError(self._foreign)
            with suppress(BusAway):  # nodes that come at once are told of the others
                await self._reread()
            living = asyncio.create_task(self._live(share))
            try:
                yield
            finally:
                for task in filter(None, (living, self._catching)):
                    await _end(task)
                with suppress(BusAway):  # then its lease ends
                    await self._put((), gone=True)

    async def _check_key(self) -> None:
        """Find out whether the server belongs to this fleet. The first coordinator says whose it is."""
        try:
            if await self.bus.create(_OWNER, _KEY, self.key.public):
                self._foreign = ""
                return
            found = await self.bus.get(_OWNER, _KEY)
        except BusAway as error:
            log.warning("%s", error)
            return
        other = found[0] if found is not None else b""
        self._foreign = "" if other == self.key.public else _foreign(other, self.key.public)

    def tell(self, news: Marked) -> None:
        """Tell the others of a node, now or as soon as NATS is back."""
        before = self._unsent.get(news.key)
        self._unsent[news.key] = news if before is None else _merged(before, news)

    async def _live(self, share: Share) -> None:
        while True:
            try:
                self.own_models = share.models()
                await self._tick(share)
            except BusAway as error:
                self._warn(str(error))
            except Exception:  # whatever it is, the next record must be written
                log.exception("Something that this coordinator tells its fleet, or hears of it, has failed.")
            if self.directory.forget(self._clock()):
                self.changed.tell(None)
            await asyncio.sleep(_TICK_S)

    async def _tick(self, share: Share) -> None:
        """Do what it is time for. Raises BusAway."""
        now = self._clock()
        if not self.bus.is_up:
            return
        if now - self._read_at >= _REREAD_S:
            await self._check_key()
            if self._foreign:
                raise BusAway(self._foreign)
            self._read_at = now  # before it is read, so that a loss of the connection meanwhile is not forgotten
            await self._reread()
            if self._catching is None or self._catching.done():  # a database that says nothing must hold up no record
                self._catching = asyncio.create_task(self._catch_up(share))
        for key, marked in list(self._unsent.items()):
            await self._tell(marked)
            if self._unsent.get(key) is marked:
                del self._unsent[key]
        await self._renew(now)
        if now - self._used_at >= _USAGE_S:
            self._used_at = now
            if usage := share.usage():
                await self._tell(usage)

    async def _catch_up(self, share: Share) -> None:
        try:
            await share.catch_up()
        except StoreError as error:
            self._warn(str(error))
            self._read_at = self._clock() - _REREAD_S + _AGAIN_S

    async def _renew(self, now: float) -> None:
        models = self.own_models
        age = now - self._sent_at
        same = models == self._sent
        is_due = age >= _RENEW_S or (not same and (age >= _LOAD_S or _coverage(models) != _coverage(self._sent)))
        if is_due:
            await self._put(models)
            self._sent, self._sent_at = models, now
            self._warned.clear()

    async def _put(self, models: tuple[ModelRecord, ...], *, gone: bool = False) -> None:
        self._number += 1
        name, at = name_of(self.own), self._unix()
        record = Record(self.own, self.url, __version__, self._started, self._number, at, models, gone)
        await self.bus.put(STATE, name, seal(self.key, name, record))
        self._put_at = self._clock()

    async def _reread(self) -> None:
        """Read all records, of which some may have been missed."""
        for name in await self.bus.names(STATE):
            found = await self.bus.get(STATE, name)
            if found is not None:
                self._heard_record(name, found[0], LEASE_S)

    async def _tell(self, news: News) -> None:
        self._told += 1
        packed = msgspec.Raw(msgspec.msgpack.encode(news))
        told = Told(self.own, self._unix(), packed, self._started, self._told)
        await self.bus.tell(NEWS, seal(self.key, NEWS, told))

    def _heard_record(self, name: str, sealed: bytes, oldest_s: float = FRESH_S) -> None:
        """Take a record. oldest_s: what was written longer ago may be that of a coordinator that is gone."""
        if not sealed or name == name_of(self.own):  # a value that was deleted, or our own
            return
        try:
            record = record_of(self.key.public, name, sealed, self._unix())
        except WireError as error:
            self._warn(str(error))
            return
        if self._unix() - record.at <= oldest_s and self.directory.note(record, self._clock()):
            self.changed.tell(None)

    def _heard_news(self, _: str, sealed: bytes) -> None:
        assert self._share is not None
        try:
            told, news = news_of(self.key.public, sealed, self._unix())
        except WireError as error:
            self._warn(str(error))
            return
        if told.sender != self.own and told.age > self._heard.get(told.sender, (0.0, 0)):
            self._heard[told.sender] = told.age
            if news is not None:
                self._share.hear(news)

    def _warn(self, text: str) -> None:
        """Log what is wrong once, until this coordinator's record is renewed again."""
        if text not in self._warned and len(self._warned) < 100:
            self._warned.add(text)
            log.warning("%s", text)


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task until it ends: the library for NATS sometimes takes a cancellation for an error of the server."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_TICK_S)


def _coverage(models: tuple[ModelRecord, ...]) -> list[tuple[str, bool]]:
    return [(model.digest, model.covered) for model in models]


def _merged(before: Marked, news: Marked) -> Marked:
    """Both at once, the later one where they differ."""
    changes = {
        name: value for name in ("trusted", "revoked", "quarantine") if (value := getattr(news, name)) is not None
    }
    return msgspec.structs.replace(before, **changes)


def _foreign(other: bytes, own: bytes) -> str:
    return (
        f"This NATS server belongs to the fleet with the key {fingerprint(other)}, and this coordinator has "
        f"{fingerprint(own)}: copy fleet.key from a machine of that fleet, or use another server."
    )
