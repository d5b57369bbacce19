"""What strangers send to a real server on loopback. The time is the test's."""

import asyncio
import json
from typing import Any

import pytest

from kit.runner import run
from kit.waiting import until
from kit.webserver import echo, read_bodies, serving
from potluck.webserver.http import HEAD_S, MOST_HEAD
from potluck.webserver.seats import Seats

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"

TOO_LONG = {
    "a URL": b"GET /" + b"a" * (1 << 20),
    "a header's value": b"GET / HTTP/1.1\r\nhost: " + b"a" * (1 << 20),
    "a header's name": b"GET / HTTP/1.1\r\n" + b"a" * (1 << 20),
    "long headers": b"GET / HTTP/1.1\r\n" + b"a: b" * 9 + b"\r\n" + (b"a: " + b"b" * 999 + b"\r\n") * 999,
    "short headers": b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 999,
    "a second head": GET + b"GET / HTTP/1.1\r\nhost: " + b"a" * (1 << 20),
}


@pytest.mark.parametrize("sent", TOO_LONG.values(), ids=TOO_LONG)
def test_a_head_that_is_too_long_is_refused(sent: bytes) -> None:
    async def test() -> None:
        async with serving(echo) as served:
            said = await served.say(sent)
            assert sent.startswith(GET) or error_of(said)[0] == 431  # its answer may be under way
            await until(lambda: len(served.guard.seats) == 0)

    run(test())


def error_of(said: bytes) -> tuple[int, str]:
    """The status and the message of an answer that is one error in OpenAI's form, after which the server closes."""
    head, _, body = said.decode().partition("\r\n\r\n")
    assert "\r\ncontent-type: application/json\r\n" in head
    assert f"\r\ncontent-length: {len(body)}\r\nconnection: close" in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(head.split()[1]), error["message"]


NO_HTTP = {
    "nonsense": b"Bring a salad.\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "an unknown method": b"FETCH / HTTP/1.1\r\nhost: x\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
    "a length that is none": b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\nx",
    "an address that is none": b"CONNECT x:y HTTP/1.1\r\nhost: x\r\n\r\n",
    "much that follows": b"Bring a salad.\r\n\r\n" + bytes(1 << 20),
}


@pytest.mark.parametrize("sent", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_is_answered_in_json(sent: bytes) -> None:
    async def test() -> None:
        async with serving(echo) as served:
            status, message = error_of(await served.say(sent))
            assert (status, message) == (400, "The request is not valid HTTP/1.1, so nothing of it was done.")
            await until(lambda: len(served.guard.seats) == 0)

    run(test())


def test_an_answer_that_is_under_way_is_not_mixed_with_another() -> None:
    async def test() -> None:
        read_bodies.clear()
        async with serving(echo) as served:
            reader, writer = await served.dial()
            writer.write(b"POST /late HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nsalad\r\n")
            assert await _rest(reader) == b""
            writer.close()
        read_bodies.set()

    run(test())


@pytest.mark.parametrize("sent", [b"1;" + b"a" * (1 << 20), b"0\r\n" + b"a" * (1 << 20), b"0\r\n" + b"a:b\r\n" * 9999])
def test_extensions_of_chunks_and_trailers_are_bounded(sent: bytes) -> None:
    async def test() -> None:
        async with serving(echo) as served:
            assert b" 200 " not in await served.say(CHUNKED + sent)

    run(test())


def test_a_head_of_usual_length_is_served() -> None:
    async def test() -> None:
        async with serving(echo) as served:
            long = b"a: " + b"b" * (MOST_HEAD - 8192) + b"\r\n"
            head = b"POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: 300000\r\n" + long + b"\r\n"
            said = await served.say(head + bytes(300_000))
            assert b" 200 " in said
            assert said.endswith(b"300000\r\n0\r\n\r\n")

    run(test())


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"\r\n"])
def test_a_head_must_come_in_time(sent: bytes) -> None:
    async def test() -> None:
        async with serving(echo) as served:
            said = asyncio.create_task(served.say(sent))
            await until(lambda: len(served.guard.seats) == 1)
            served.pass_time(HEAD_S - 1)
            assert len(served.guard.seats) == 1
            served.pass_time(2)
            assert await said == b""

    run(test())


def test_the_next_head_must_come_in_time_too() -> None:
    async def test() -> None:
        async with serving(echo) as served:
            reader, writer = await served.dial()
            writer.write(GET)
            assert b" 200 " in await reader.readuntil(b"0\r\n\r\n")
            writer.write(b"\r\n")
            await writer.drain()
            served.pass_time(HEAD_S + 1)
            assert await _rest(reader) == b""
            writer.close()

    run(test())


def test_a_body_must_come_at_a_least_rate() -> None:
    async def test() -> None:
        async with serving(echo) as served:
            reader, writer = await served.dial()
            writer.write(b"POST / HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n" + bytes(32 << 10))
            protocol: Any = (await served.only()).get_protocol()
            await until(lambda: protocol._received == 32 << 10)
            served.pass_time(11.0)  # ten seconds, and two for what has come
            assert len(served.guard.seats) == 1
            served.pass_time(1.5)
            assert await _rest(reader) == b""
            writer.close()

    run(test())


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def test_the_servers_own_waiting_is_not_held_against_a_body() -> None:
    async def test() -> None:
        read_bodies.clear()
        async with serving(echo) as served:
            reader, writer = await served.dial()
            writer.write(b"POST /late HTTP/1.1\r\ncontent-length: 100001\r\n\r\n" + bytes(100_000))
            protocol: Any = (await served.only()).get_protocol()
            await until(lambda: protocol._received == 100_000)
            for _ in range(20):
                served.pass_time(10)
            read_bodies.set()
            await until(lambda: not protocol.flow.read_paused)
            served.pass_time(5)
            writer.write(b"x")
            assert b"100001" in await reader.readuntil(b"0\r\n\r\n")
            writer.close()

    run(test())


def test_those_without_a_key_may_not_ask_too_often() -> None:
    async def test() -> None:
        async with serving(echo) as served:
            ask = b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n"
            answers = [await served.say(ask) for _ in range(410)]
            assert all(b" 200 " in answer for answer in answers[:400])
            assert answers[-1] == b""
            with_key = b"GET /vouched HTTP/1.1\r\nauthorization: x\r\nconnection: close\r\n\r\n"
            assert b" 200 " in await served.say(with_key)
            served.pass_time(1)
            assert b" 200 " in await served.say(ask)

    run(test())


def test_those_with_a_key_may_ask_often() -> None:
    async def test() -> None:
        async with serving(echo) as served:
            for _ in range(500):
                assert b" 200 " in await served.say(b"GET /vouched HTTP/1.1\r\nconnection: close\r\n\r\n")

    run(test())


def test_who_does_not_read_is_cut_off() -> None:
    async def test() -> None:
        async with serving(echo) as served:
            _, writer = await served.dial()
            writer.write(b"GET /large HTTP/1.1\r\n\r\n")
            transport = await served.only()
            await until(lambda: transport.get_write_buffer_size() > 0)
            served.pass_time(1)
            served.pass_time(31)
            assert len(served.guard.seats) == 0
            writer.close()

    run(test())


def test_who_reads_slowly_is_waited_for() -> None:
    async def test() -> None:
        async with serving(echo) as served:
            reader, writer = await served.dial()
            writer.write(b"GET /large HTTP/1.1\r\n\r\n")
            transport = await served.only()
            await until(lambda: transport.get_write_buffer_size() > 0)
            for _ in range(4):
                left = transport.get_write_buffer_size()
                while transport.get_write_buffer_size() == left:
                    await reader.read(1 << 20)
                    await asyncio.sleep(0)
                served.pass_time(29)
            assert len(served.guard.seats) == 1
            writer.close()

    run(test())


def test_requests_in_advance_are_bounded() -> None:
    async def test() -> None:
        async with serving(echo) as served:
            assert len(await served.say(GET * 5000)) < 5000
            assert len(served.guard.seats) == 0

    run(test())


async def send_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(bytes(1 << 20))
        await writer.drain()


def test_a_body_that_nobody_wants_is_not_read_for_ever() -> None:
    async def refuse(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def test() -> None:
        async with serving(refuse) as served:
            _, writer = await served.dial()
            writer.write(b"POST / HTTP/1.1\r\ncontent-length: 1000000000\r\n\r\n")
            with pytest.raises(ConnectionError):
                await send_for_ever(writer)
            writer.close()

    run(test())


def test_a_silent_connection_gives_way_and_one_that_is_vouched_for_does_not() -> None:
    async def test() -> None:
        async with serving(echo, Seats(100, 1, 100)) as served:
            reader, writer = await served.dial()
            writer.write(b"POST /vouched HTTP/1.1\r\ncontent-length: 3\r\n\r\nab")
            await until(lambda: not served.guard.seats._strangers)
            silent, other = await served.dial()
            await until(lambda: len(served.guard.seats) == 2)
            served.pass_time(5)
            assert b" 200 " in await served.say(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
            assert await _rest(silent) == b""
            writer.write(b"c")
            assert b"3" in await reader.readuntil(b"0\r\n\r\n")
            writer.close()
            other.close()

    run(test())


@pytest.mark.parametrize("connection", [b"", b"connection: keep-alive\r\n"])
def test_a_client_of_http_1_0_gets_no_chunks(connection: bytes) -> None:
    async def test() -> None:
        async with serving(echo) as served:
            said = await served.say(b"POST / HTTP/1.0\r\ncontent-length: 3\r\n" + connection + b"\r\nabc")
            head, _, body = said.partition(b"\r\n\r\n")
            assert body == b"3"
            assert b"chunked" not in head
            assert b"connection: close" in head

    run(test())


def test_a_later_client_gets_chunks() -> None:
    async def test() -> None:
        async with serving(echo) as served:
            said = await served.say(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
            assert b"chunked" in said
            assert said.endswith(b"1\r\n0\r\n0\r\n\r\n")

    run(test())


def test_a_length_that_is_named_counts_for_http_1_0_too() -> None:
    async def app(_scope, _receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        for more in (True, False):
            await send({"type": "http.response.body", "body": b"ab", "more_body": more})

    async def test() -> None:
        async with serving(app) as served:
            said = await served.say(b"GET / HTTP/1.0\r\n\r\n")
            assert b"content-length: 4" in said
            assert said.endswith(b"\r\n\r\nabab")

    run(test())
