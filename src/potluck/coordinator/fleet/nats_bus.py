"""The connection of a fleet over NATS, with its buckets in JetStream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error
from nats.js.api import KeyValueConfig
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue

from potluck.coordinator.fleet.bus import Bucket, Heard
from potluck.errors import BusAway

log = logging.getLogger(__name__)

_ASK_S = 2.0
"""Seconds within which the server answers."""
_AGAIN_S = 0.5
_FAULTS = (Error, OSError, ValueError, KeyError, TypeError, AttributeError)
"""What the library raises, also where a server answers with nonsense."""
_MOST_REPLICAS = 3
_MOST_TOLD = 20


class NatsBus:
    """A connection to the NATS servers at these URLs, which is made again whenever it is lost.

    on_up: is called when the connection is there, for the first time and again.
    """

    def __init__(self, urls: tuple[str, ...]) -> None:
        self.on_up: Callable[[], None] = lambda: None
        self._urls = urls
        self._client = Client()
        self._buckets: dict[str, KeyValue] = {}
        self._subjects: list[tuple[str, Callable[[Msg], Awaitable[None]]]] = []
        self._fault = ""
        self._told: set[str] = set()
        """What is wrong and was logged since there was a connection."""

    @property
    def is_up(self) -> bool:
        return self._client.is_connected

    @property
    def fault(self) -> str:
        """Why there is no connection, as the end of a sentence; empty if there is one."""
        return "" if self.is_up else self._fault or "no server has answered yet"

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Keep the connection while the block runs. It is made in the background."""
        connecting = asyncio.create_task(self._connect())
        try:
            yield
        finally:
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await connecting
            with suppress(Error, OSError):
                await self._client.close()

    async def _connect(self) -> None:
        """Connect, and do so anew whenever the library gives up, as it does after most errors that a server tells."""
        while True:
            closed = asyncio.Event()
            self._client, self._buckets = Client(), {}
            if await self._has_connected(closed):
                for subject, heard in self._subjects:
                    await self._client.subscribe(subject, cb=heard)
                self.on_up()
                await closed.wait()
            await asyncio.sleep(_AGAIN_S)

    async def _has_connected(self, closed: asyncio.Event) -> bool:
        """Whether there is a connection now. closed: is set when the library gives it up."""

        async def close() -> None:
            closed.set()

        try:
            await self._client.connect(
                list(self._urls),
                error_cb=self._note,
                disconnected_cb=self._lost,
                reconnected_cb=self._found,
                closed_cb=close,
                connect_timeout=_ASK_S,  # type: ignore[arg-type]  # a float is as good
                reconnect_time_wait=_AGAIN_S,  # type: ignore[arg-type]
                max_reconnect_attempts=-1,
                ping_interval=5,
                max_outstanding_pings=2,
                allow_reconnect=True,
            )
        except (Error, OSError, ValueError) as error:
            await self._note(error)
            return False
        return True

    async def _note(self, error: Exception) -> None:
        told = str(error) or type(error).__name__
        if told not in self._told and len(self._told) < _MOST_TOLD:  # the server is asked twice a second
            self._told.add(told)
            log.warning("NATS: %s", told)
        self._fault = told

    async def _lost(self) -> None:
        log.warning("The connection to NATS is lost.")

    async def _found(self) -> None:
        log.info("The connection to NATS is back.")
        self._fault = ""
        self._told.clear()
        self.on_up()

    def listen(self, subject: str, heard: Heard) -> None:
        """Hear this subject from the time at which there is a connection."""

        async def take(message: Msg) -> None:
            heard(message.subject, message.data)

        self._subjects.append((subject, take))

    def watch(self, bucket: Bucket, beginning: str, heard: Heard) -> None:
        """Hear all values that are put into a bucket under names that begin so."""
        head = f"$KV.{bucket.name}."
        self.listen(f"{head}{beginning}.*", lambda subject, value: heard(subject.removeprefix(head), value))

    async def tell(self, subject: str, value: bytes) -> None:
        """Send a value to all who listen now. Raises BusAway."""
        if not self.is_up:
            raise BusAway(f"The fleet's NATS server is away: {self.fault}.")
        try:
            await self._client.publish(subject, value)
        except _FAULTS as error:
            raise _away(error) from error

    async def put(self, bucket: Bucket, name: str, value: bytes) -> None:
        """Keep a value in the place of an older one. Raises BusAway."""
        async with self._opened(bucket) as kept:
            await kept.put(name, value)

    async def create(self, bucket: Bucket, name: str, value: bytes) -> bool:
        """Keep a value if there is none. Returns whether it is kept. Raises BusAway."""
        async with self._opened(bucket) as kept:
            try:
                await kept.create(name, value)
            except KeyWrongLastSequenceError:
                return False
            return True

    async def replace(self, bucket: Bucket, name: str, value: bytes, revision: int) -> bool:
        """Replace the value of this revision. Returns False if another one is there by now. Raises BusAway."""
        async with self._opened(bucket) as kept:
            try:
                await kept.update(name, value, last=revision)
            except KeyWrongLastSequenceError:
                return False
            return True

    async def get(self, bucket: Bucket, name: str) -> tuple[bytes, int] | None:
        """A value and its revision; None if there is none. Raises BusAway."""
        async with self._opened(bucket) as kept:
            try:
                entry = await kept.get(name)
            except KeyNotFoundError:
                return None
            return entry.value or b"", entry.revision or 0

    async def names(self, bucket: Bucket) -> list[str]:
        """The names of all values. Raises BusAway."""
        head = f"$KV.{bucket.name}."
        async with self._opened(bucket):
            # The library's own list of keys would make a consumer, and leave it running where this is cancelled.
            stream = self._client.jetstream(timeout=_ASK_S)
            found = await stream.stream_info(f"KV_{bucket.name}", subjects_filter=f"{head}>")
        return [subject.removeprefix(head) for subject in found.state.subjects or ()]

    @asynccontextmanager
    async def _opened(self, bucket: Bucket) -> AsyncIterator[KeyValue]:
        """The bucket, which is made if it does not exist. Whatever fails in the block is raised as BusAway."""
        if not self.is_up:
            raise BusAway(f"The fleet's NATS server is away: {self.fault}.")
        try:
            if bucket.name not in self._buckets:
                self._buckets[bucket.name] = await self._found_or_made(bucket)
            yield self._buckets[bucket.name]
        except _FAULTS as error:
            self._buckets.pop(bucket.name, None)  # the server may have lost it
            raise _away(error) from error

    async def _found_or_made(self, bucket: Bucket) -> KeyValue:
        stream = self._client.jetstream(timeout=_ASK_S)
        try:
            return await stream.key_value(bucket.name)
        except NotFoundError:
            replicas = _MOST_REPLICAS if len(self._client.servers) >= _MOST_REPLICAS else 1
            config = KeyValueConfig(
                bucket.name, ttl=bucket.ttl_s, max_bytes=bucket.max_bytes, history=1, replicas=replicas
            )
            return await stream.create_key_value(config)


def _away(error: Exception) -> BusAway:
    return BusAway(f"The fleet's NATS server does not do what it should: {str(error) or type(error).__name__}.")
