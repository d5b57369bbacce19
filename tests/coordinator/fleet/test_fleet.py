"""Coordinators that find each other over a real NATS server."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from kit.nats_servers import NatsServer, nats_server, program
from kit.runner import run
from kit.waiting import until
from potluck.coordinator.fleet.directory import LEASE_S
from potluck.coordinator.fleet.fleet import STATE, Fleet, Share
from potluck.coordinator.fleet.lease import LEASES, Lease
from potluck.coordinator.fleet.nats_bus import NatsBus
from potluck.coordinator.fleet.records import NEWS, Marked, ModelRecord, News, Record, Usage, name_of, seal
from potluck.coordinator.fleet.shelf import FleetShelf
from potluck.errors import BusAway, IdentityError, StoreError
from potluck.wire.identity import Identity

pytestmark = pytest.mark.skipif(program() is None, reason="There is no nats-server here")

KEY = Identity.fresh()
MODEL = ModelRecord(("llama",), "d" * 64, 4096, ((1, 6),))


@pytest.fixture
def nats() -> Iterator[NatsServer]:
    with nats_server() as server:
        yield server


class Coordinator:
    """One that serves a model and notes what it hears."""

    def __init__(self, nats: NatsServer, name: str, key: Identity = KEY) -> None:
        self.fleet = Fleet(NatsBus((nats.url,)), key, name.encode() * 32, f"http://{name}")
        self.models: tuple[ModelRecord, ...] = (MODEL,)
        self.heard: list[News] = []
        self.used: list[Usage] = []
        self.caught_up = 0
        self.database_is_away = False

    def _usage(self) -> Usage:
        return self.used.pop() if self.used else Usage()

    async def _catch_up(self) -> None:
        self.caught_up += 1
        if self.database_is_away:
            raise StoreError("The database failed.")

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Coordinator"]:
        share = Share(models=lambda: self.models, usage=self._usage, hear=self.heard.append, catch_up=self._catch_up)
        async with self.fleet.kept(share):
            yield self

    @property
    def others(self) -> list[str]:
        return [record.url for record in self.fleet.others]


def test_coordinators_find_each_other_and_hear_news(nats: NatsServer) -> None:
    async def scenario() -> None:
        one, other = Coordinator(nats, "a"), Coordinator(nats, "b")
        async with one.serving():
            async with other.serving():
                await until(lambda: one.others == ["http://b"] and other.others == ["http://a"])
                one.models = (msgspec.structs.replace(MODEL, served=((0, 6),)),)
                await until(lambda: not other.fleet.others[0].models[0].covered)
                one.fleet.tell(Marked(b"n" * 32, revoked=True))
                one.fleet.tell(Marked(b"n" * 32, trusted=False))
                one.used.append(Usage({"anna": (3, 2)}))
                await until(lambda: len(other.heard) == 2)
                assert other.heard == [Marked(b"n" * 32, trusted=False, revoked=True), Usage({"anna": (3, 2)})]
                assert one.heard == []
            await until(lambda: one.others == [])

    run(scenario())


def test_newcomer_knows_all_at_once(nats: NatsServer) -> None:
    async def scenario() -> None:
        async with Coordinator(nats, "a").serving(), Coordinator(nats, "b").serving():
            newcomer = Coordinator(nats, "c")
            async with newcomer.serving():
                await until(lambda: newcomer.others == ["http://a", "http://b"])

    run(scenario())


def test_fleet_survives_its_server(nats: NatsServer) -> None:
    async def scenario() -> None:
        one, other = Coordinator(nats, "a"), Coordinator(nats, "b")
        async with one.serving(), other.serving():
            await until(lambda: bool(one.others and other.others))
            nats.kill()
            await until(lambda: one.others == [] and other.others == [])
            assert one.fleet.bus.fault
            before = other.caught_up
            nats.start()
            await until(lambda: bool(one.others and other.others))
            await until(lambda: other.caught_up > before)  # it may have missed news
            one.fleet.tell(Marked(b"n" * 32, revoked=True))
            await until(lambda: other.heard == [Marked(b"n" * 32, revoked=True)])

    run(scenario())


def test_coordinator_begins_alone_where_the_server_is_away(nats: NatsServer) -> None:
    async def scenario() -> None:
        nats.kill()
        alone = Coordinator(nats, "a")
        share = Share(models=lambda: (MODEL,), usage=Usage, hear=alone.heard.append, catch_up=alone._catch_up)
        async with alone.fleet.kept(share, patience_s=0.1):
            assert alone.others == []
            nats.start()
            async with Coordinator(nats, "b").serving():
                await until(lambda: alone.others == ["http://b"])

    run(scenario())


def test_coordinator_with_a_foreign_key_is_refused(nats: NatsServer) -> None:
    async def scenario() -> None:
        async with Coordinator(nats, "a").serving():
            with pytest.raises(IdentityError, match="belongs to the fleet with the key"):
                async with Coordinator(nats, "b", Identity.fresh()).serving():
                    pass

    run(scenario())


def test_forged_records_and_news_change_nothing(nats: NatsServer) -> None:
    async def scenario() -> None:
        one, other = Coordinator(nats, "a"), Coordinator(nats, "b")
        async with one.serving(), other.serving():
            await until(lambda: bool(one.others and other.others))
            bus, forger = other.fleet.bus, Identity.fresh()
            genuine = other.fleet.others[0]
            forged = Record(genuine.key, "http://evil", "1", 1e12, 1, 1e12)
            stranger = Record(b"e" * 32, "http://evil", "1", 1e12, 1, 1e12)
            for record in (forged, stranger):
                await bus.put(STATE, name_of(record.key), seal(forger, name_of(record.key), record))
                await bus.put(STATE, name_of(record.key), b"garbage")
            await bus.tell(NEWS, seal(forger, NEWS, Marked(b"n" * 32, revoked=True)))
            await bus.tell(NEWS, b"garbage")
            one.fleet.tell(Marked(b"m" * 32, revoked=True))  # what comes behind it is heard
            await until(lambda: bool(other.heard))
            assert other.heard == [Marked(b"m" * 32, revoked=True)]
            assert other.others == ["http://a"]
            assert one.others == ["http://b"]
            newcomer = Coordinator(nats, "c")  # reads what lies in the bucket
            async with newcomer.serving():
                await until(lambda: newcomer.others == ["http://a", "http://b"])

    run(scenario())


def test_shelf_keeps_answers_while_the_server_is_away(nats: NatsServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = NatsBus((nats.url,))
        shelf = FleetShelf(bus)
        async with bus.connected():
            await until(lambda: bus.is_up)
            assert await shelf.get("abc.ask") is None
            await shelf.put("abc.ask", b"x" * 900_000)
            await shelf.put("abc.told", b"1")
            await shelf.put("abc.told", b"2")
            nats.kill()
            await until(lambda: not bus.is_up)
            with pytest.raises(BusAway):
                await shelf.put("abc.told", b"3")
            nats.start()
            await until(lambda: bus.is_up)
            assert await shelf.get("abc.told") == b"2"
            assert await shelf.get("abc.ask") == b"x" * 900_000

    run(scenario())


def test_coordinator_goes_on_while_its_database_is_away(nats: NatsServer) -> None:
    async def scenario() -> None:
        one, other = Coordinator(nats, "a"), Coordinator(nats, "b")
        one.database_is_away = True
        async with one.serving(), other.serving():
            await until(lambda: one.caught_up > 0)
            one.models = (msgspec.structs.replace(MODEL, waiting=9),)
            await until(lambda: bool(other.others) and other.fleet.others[0].models[0].waiting == 9)

    run(scenario())


def test_record_of_a_coordinator_that_is_gone_does_not_count_again(nats: NatsServer) -> None:
    async def scenario() -> None:
        one = Coordinator(nats, "a")
        async with one.serving():
            dead = Record(b"d" * 32, "http://dead", "1", 1.0, 1, time.time() - LEASE_S - 1, (MODEL,))
            await one.fleet.bus.put(STATE, name_of(dead.key), seal(KEY, name_of(dead.key), dead))
            newcomer = Coordinator(nats, "b")
            async with newcomer.serving():
                await until(lambda: bool(newcomer.others))
                assert newcomer.others == ["http://a"]

    run(scenario())


def test_lease_is_held_by_one_at_a_time(nats: NatsServer) -> None:
    async def scenario() -> None:
        bus = NatsBus((nats.url,))
        async with bus.connected():
            await until(lambda: bus.is_up)
            one, other = Lease(bus, "moves", b"a"), Lease(bus, "moves", b"b")
            assert await one.hold()
            assert not await other.hold()
            assert await one.hold()
            taken = await bus.get(LEASES, "moves")
            assert taken is not None
            assert await bus.replace(LEASES, "moves", b"b", taken[1])  # as when the other one took it meanwhile
            assert not await one.hold()
            assert await other.hold()

    run(scenario())


def test_news_that_are_sent_again_are_not_heard_again(nats: NatsServer) -> None:
    async def scenario() -> None:
        one, other = Coordinator(nats, "a"), Coordinator(nats, "b")
        sent: list[bytes] = []
        async with one.serving(), other.serving():
            await until(lambda: bool(one.others and other.others))
            tell = one.fleet.bus.tell

            async def recorded(subject: str, sealed: bytes) -> None:
                sent.append(sealed)
                await tell(subject, sealed)

            one.fleet.bus.tell = recorded  # type: ignore[assignment, method-assign]
            one.used.append(Usage({}, {"key a": 1.0}))
            await until(lambda: len(other.heard) == 1)
            for _ in range(3):
                await tell(NEWS, sent[0])
            one.fleet.tell(Marked(b"n" * 32, revoked=True))
            await until(lambda: len(other.heard) == 2)
            assert other.heard == [Usage({}, {"key a": 1.0}), Marked(b"n" * 32, revoked=True)]

    run(scenario())


def test_nodes_keep_knowing_the_others_while_nats_is_away(nats: NatsServer) -> None:
    async def scenario() -> None:
        one, other = Coordinator(nats, "a"), Coordinator(nats, "b")
        async with one.serving(), other.serving():
            await until(lambda: bool(one.others and other.others))
            assert [record.url for record in one.fleet.known] == ["http://b"]
            nats.kill()
            await until(lambda: one.others == [])
            assert [record.url for record in one.fleet.known] == ["http://b"]

    run(scenario())
