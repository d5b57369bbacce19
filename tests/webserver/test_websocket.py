"""What strangers and nodes send over web-sockets to a real server on loopback. The time is the test's."""

import asyncio
import os
import struct

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from kit.runner import run
from kit.waiting import until
from kit.webserver import MOST_MESSAGE, Served, echo, serving
from potluck.webserver.websocket import PROVEN_MESSAGE, STRANGER_MESSAGE

UPGRADE = (
    b"GET /%s HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
BINARY, CONTINUED, PING = 0x82, 0x00, 0x89


def frame(head: int, size: int) -> bytes:
    """A masked frame of zeros."""
    length = struct.pack("!BB", head, 0x80 | size) if size < 126 else struct.pack("!BBQ", head, 0xFF, size)
    return length + bytes(4) + bytes(size)


async def upgraded(served: Served, path: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await served.dial()
    writer.write(UPGRADE % path)
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


@pytest.mark.parametrize(
    ("path", "size"), [("", STRANGER_MESSAGE), ("proven", PROVEN_MESSAGE), ("vouched", MOST_MESSAGE)]
)
def test_messages_are_bounded_and_those_of_strangers_more(path: str, size: int) -> None:
    async def test() -> None:
        async with serving(echo) as served:
            url = f"ws://127.0.0.1:{served.port}/{path}"
            async with connect(url, compression=None, max_size=None) as socket:
                await socket.send(bytes(size))
                assert await socket.recv() == bytes(size)
                await socket.send(bytes(size + 1))
                with pytest.raises(ConnectionClosed):
                    await socket.recv()

    run(test())


def test_answers_to_pings_do_not_pile_up_for_a_client_that_does_not_read() -> None:
    async def test() -> None:
        async with serving(echo) as served:
            _, writer = await upgraded(served, b"vouched")
            transport = await served.only()
            for _ in range(64):  # fills the buffers of both ends
                writer.write(frame(BINARY, MOST_MESSAGE))
            await until(lambda: transport.get_write_buffer_size() > 0)
            waiting = transport.get_write_buffer_size()
            writer.write(frame(PING, 100) * 20)
            await asyncio.sleep(0)
            assert transport.get_write_buffer_size() <= waiting
            writer.transport.abort()
            await until(lambda: len(served.guard.seats) == 0)

    run(test())


@pytest.mark.parametrize("path", [b"", b"vouched"])
def test_a_flood_of_pings_ends_the_connection(path: bytes) -> None:
    async def test() -> None:
        async with serving(echo) as served:
            reader, writer = await upgraded(served, path)
            writer.write(frame(PING, 0) * 100_000)
            assert len(await rest(reader)) < 100_000
            assert len(served.guard.seats) == 0
            writer.close()

    run(test())


@pytest.mark.parametrize(("path", "count"), [(b"", 17), (b"vouched", 20_000)])
def test_a_flood_of_tiny_messages_ends_the_connection(path: bytes, count: int) -> None:
    async def test() -> None:
        async with serving(echo) as served:
            reader, writer = await upgraded(served, path)
            writer.write(frame(BINARY, 0) * count)
            assert len(await rest(reader)) < 2 * count
            assert len(served.guard.seats) == 0
            writer.close()

    run(test())


def test_messages_now_and_then_are_no_flood() -> None:
    async def test() -> None:
        async with serving(echo) as served, connect(f"ws://127.0.0.1:{served.port}/") as socket:
            for _ in range(100):
                await socket.send(b"x")
                assert await socket.recv() == b"x"
                served.pass_time(0.5)

    run(test())


def test_pings_now_and_then_are_answered() -> None:
    async def test() -> None:
        async with serving(echo) as served, connect(f"ws://127.0.0.1:{served.port}/") as socket:
            for _ in range(100):
                await (await socket.ping())
                served.pass_time(0.5)

    run(test())


def test_endless_fragments_end_the_connection() -> None:
    async def test() -> None:
        async with serving(echo) as served:
            reader, writer = await upgraded(served)
            writer.write(frame(0x02, 0) + frame(CONTINUED, 0) * 5000)
            assert await rest(reader) == b""
            assert len(served.guard.seats) == 0
            writer.close()

    run(test())


def test_a_refused_client_that_never_closes_is_cut_off() -> None:
    async def test() -> None:
        async with serving(echo) as served:
            reader, writer = await upgraded(served)
            writer.write(b"\x82\xff" + os.urandom(200))  # a length that no stranger's message may have
            await reader.read(1)
            served.pass_time(0)
            served.pass_time(6)
            assert len(served.guard.seats) == 0
            writer.close()

    run(test())


async def rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""
