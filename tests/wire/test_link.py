import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from kit.runner import run
from potluck.errors import LinkClosed
from potluck.wire.codec import MAX_FRAME
from potluck.wire.link import MemoryLink, WebSocketLink

Handler = Callable[[ServerConnection], Coroutine[Any, Any, None]]


@asynccontextmanager
async def web_sockets(handler: Handler) -> AsyncIterator[str]:
    """A server on a free port; gives its URL."""
    async with serve(handler, "127.0.0.1", 0, max_size=MAX_FRAME, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"


@asynccontextmanager
async def raw_server(reply: bytes) -> AsyncIterator[str]:
    """One that answers anything with these bytes and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # it may be asked whether it speaks TLS
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def echo(connection: ServerConnection) -> None:
    async for frame in connection:
        await connection.send(frame)


def test_memory_frames_come_in_order_both_ways() -> None:
    async def test() -> None:
        one, other = MemoryLink.pair()
        for frame in (b"a", b"b"):
            await one.send(frame)
        await other.send(b"c")
        assert [await other.receive(), await other.receive(), await one.receive()] == [b"a", b"b", b"c"]

    run(test())


def test_closing_a_memory_link_wakes_both_ends() -> None:
    async def test() -> None:
        one, other = MemoryLink.pair()
        waiting = [asyncio.create_task(link.receive()) for link in (one, other)]
        await one.close()
        for task in waiting:
            with pytest.raises(LinkClosed):
                await task
        for link in (one, other):
            with pytest.raises(LinkClosed):
                await link.send(b"late")
            with pytest.raises(LinkClosed):
                await link.receive()

    run(test())


def test_a_memory_link_gives_what_was_sent_before_it_closed() -> None:
    async def test() -> None:
        one, other = MemoryLink.pair()
        await one.send(b"last words")
        await one.close()
        await one.close()
        assert await other.receive() == b"last words"
        with pytest.raises(LinkClosed):
            await other.receive()

    run(test())


def test_sending_to_a_memory_link_whose_other_end_is_closed_fails() -> None:
    async def test() -> None:
        one, other = MemoryLink.pair()
        await other.close()
        with pytest.raises(LinkClosed):
            await one.send(b"late")

    run(test())


def test_web_socket_frames_up_to_the_limit_come_back() -> None:
    async def test() -> None:
        async with web_sockets(echo) as url:
            link = await WebSocketLink.dial(url)
            for frame in (b"\1", b"frame", b"\1" * MAX_FRAME):
                await link.send(frame)
                assert await link.receive() == frame
            await link.close()

    run(test())


def test_text_is_handed_on_as_bytes() -> None:
    async def test() -> None:
        async def talk(connection: ServerConnection) -> None:
            await connection.send("text")

        async with web_sockets(talk) as url:
            link = await WebSocketLink.dial(url)
            assert await link.receive() == b"text"
            await link.close()

    run(test())


def test_a_frame_over_the_limit_is_refused_by_the_node() -> None:
    async def test() -> None:
        async def flood(connection: ServerConnection) -> None:
            await connection.send(bytes(MAX_FRAME + 1))
            await connection.wait_closed()

        async with web_sockets(flood) as url:
            link = await WebSocketLink.dial(url)
            with pytest.raises(LinkClosed, match=r"1009|too big"):
                await link.receive()

    run(test())


def test_a_frame_over_the_limit_ends_the_link_with_the_reason() -> None:
    async def test() -> None:
        async with web_sockets(echo) as url:
            link = await WebSocketLink.dial(url)
            await link.send(bytes(MAX_FRAME + 1))
            with pytest.raises(LinkClosed, match=r"1009|too big"):
                await link.receive()

    run(test())


def test_a_server_that_goes_away_closes_the_link() -> None:
    async def test() -> None:
        async def leave(connection: ServerConnection) -> None:
            await connection.close(1001, "going to bed")

        async with web_sockets(leave) as url:
            link = await WebSocketLink.dial(url)
            with pytest.raises(LinkClosed, match="going to bed"):
                await link.receive()
            with pytest.raises(LinkClosed):
                await link.send(b"late")
            await link.close()
            await link.close()

    run(test())


async def dead_url() -> str:
    """Of a port that nobody listens on any more."""
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as server:
        return f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


def test_a_dead_url_is_a_closed_link_with_a_reason() -> None:
    async def test() -> None:
        with pytest.raises(LinkClosed, match="Connect call failed"):
            await WebSocketLink.dial(await dead_url())

    run(test())


@pytest.mark.parametrize(
    "reply",
    [b"", b"\x00\xff garbage\r\n\r\n", b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 101 "],
)
def test_a_server_that_speaks_no_web_socket_is_a_closed_link_with_a_reason(reply: bytes) -> None:
    async def test() -> None:
        async with raw_server(reply) as url:
            with pytest.raises(LinkClosed, match=r"\w"):
                await WebSocketLink.dial(url)

    run(test())


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "ws://",
        "ws://:80/",
        "ws://127.0.0.1:99999/",
        "ws://127.0.0.1:port/",
        "ws://[::1/",
        "ws://192.168.1..5/",
        f"ws://{'a' * 70}/",
    ],
)
def test_a_url_that_cannot_be_dialled_is_a_closed_link_with_a_reason(url: str) -> None:
    async def test() -> None:
        with pytest.raises(LinkClosed, match=r"\w"):
            await WebSocketLink.dial(url)

    run(test())
