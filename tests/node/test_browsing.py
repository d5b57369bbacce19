"""Coordinators announce themselves and are found, by real packets on the loopback interface alone."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time

import pytest
from zeroconf import ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from kit.waiting import until
from potluck.coordinator import announcing
from potluck.coordinator.announcing import announced
from potluck.errors import PotluckError
from potluck.local import HANG_S
from potluck.node import browsing
from potluck.node.browsing import _MOST, browse
from potluck.wire.beacon import SERVICE, Beacon, beacon_of

LOOPBACK = ["127.0.0.1"]
SECONDS = 0.3


def beacon(port: int = 8470) -> Beacon:
    """A beacon that no other test has."""
    return beacon_of(f"http://192.168.7.5:{port}", "0.1.0", private=True).of(f"toy-{secrets.token_hex(8)}")


async def found(*models: str, times: int = 1) -> list[Beacon]:
    """The beacons of these models, as soon as there are so many of each."""
    deadline = time.monotonic() + HANG_S
    while True:
        seen = [each for each in await browse(SECONDS, LOOPBACK) if each.model in models]
        if len(seen) == times * len(models):
            return seen
        assert time.monotonic() < deadline, seen


async def gone(model: str) -> None:
    deadline = time.monotonic() + HANG_S
    while model in [each.model for each in await browse(SECONDS, LOOPBACK)]:
        assert time.monotonic() < deadline


def test_a_coordinator_is_found_until_it_ends() -> None:
    async def scenario() -> None:
        mine = beacon()
        async with announced(mine, "5a1e0c3f9b7d2468", LOOPBACK):
            assert await found(mine.model) == [mine]
        await gone(mine.model)

    asyncio.run(scenario())


def test_coordinators_with_one_key_and_one_port_are_both_found() -> None:
    """As on two machines of which one is the copy of the other."""

    async def scenario() -> None:
        mine = beacon()
        other = beacon_of("http://192.168.7.6:8470", "0.1.0", private=False).of(mine.model)
        async with announced(mine, key := secrets.token_hex(8), LOOPBACK), announced(other, key, LOOPBACK):
            urls = {each.url for each in await found(mine.model, times=2)}
        assert urls == {mine.url, other.url}

    asyncio.run(scenario())


async def announce_raw(network: AsyncZeroconf, name: str, address: str, port: int, properties: dict) -> None:
    info = ServiceInfo(SERVICE, name, port, properties=properties, addresses=[socket.inet_aton(address)])
    await network.async_register_service(info, cooperating_responders=True)


def test_what_strangers_announce_is_bounded() -> None:
    async def scenario() -> None:
        async with AsyncZeroconf(LOOPBACK) as network:
            model = f"\x1b[2Jflood-{secrets.token_hex(8)}"
            for number in range(1, _MOST + 9):
                await announce_raw(network, f"{model[4:]} {number}.{SERVICE}", "192.168.7.5", number, {"model": model})
            deadline = time.monotonic() + HANG_S
            while len(seen := await browse(SECONDS, LOOPBACK)) < _MOST:
                assert time.monotonic() < deadline
            assert len(seen) == _MOST
            assert all(each.model.isprintable() for each in seen)
            assert model[1:] in {each.model for each in seen}

    asyncio.run(scenario())


def test_a_service_that_points_to_this_machine_is_not_listed() -> None:
    async def scenario() -> None:
        mine, liar = beacon(), f"liar-{secrets.token_hex(8)}"
        async with AsyncZeroconf(LOOPBACK) as network, announced(mine, secrets.token_hex(8), LOOPBACK):
            await announce_raw(network, f"{liar}.{SERVICE}", "127.0.0.1", 1, {"model": liar})
            assert await found(mine.model) == [mine]
            assert liar not in {each.model for each in await browse(SECONDS, LOOPBACK)}

    asyncio.run(scenario())


def refuses(*_: object, **__: object) -> None:
    raise OSError(19, "No such device")


def test_where_nothing_can_be_announced_the_owner_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "AsyncZeroconf", refuses)

    async def scenario() -> None:
        async with announced(beacon(), "5a1e0c3f9b7d2468"):
            await until(lambda: "cannot be announced" in caplog.text)

    asyncio.run(asyncio.wait_for(scenario(), HANG_S))
    [line] = [record.message for record in caplog.records if record.name.startswith("potluck")]
    assert line == "The coordinator cannot be announced on this network: [Errno 19] No such device."


def test_where_nobody_can_be_asked_the_owner_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browsing, "AsyncZeroconf", refuses)
    with pytest.raises(PotluckError, match=r"^This network cannot be asked for coordinators: .*No such device\.$"):
        asyncio.run(browse())
