"""A bounded web server in this process whose guard the test drives: it sets the time and looks at the connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from kit.waiting import until
from potluck.webserver.guard import Guard, note_proven, vouch_for
from potluck.webserver.seats import Seats
from potluck.webserver.server import BoundedServer, bounded_config

MOST_MESSAGE = 1 << 20
read_bodies = asyncio.Event()


class Served:
    """A running server. Its guard's time passes, and its connections are looked at, only when the test says so."""

    def __init__(self, seats: Seats) -> None:
        self._now = 0.0
        self.guard = Guard(seats, lambda: self._now)
        self.port = 0

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def say(self, data: bytes) -> bytes:
        """Everything that the server answers until it closes the connection."""
        reader, writer = await self.dial()
        try:
            writer.write(data)
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def only(self) -> asyncio.Transport:
        """The server's end of the only connection."""
        await until(lambda: len(self.guard._standings) == 1)
        [standing] = self.guard._standings.values()
        return standing.transport

    def pass_time(self, seconds: float) -> None:
        self._now += seconds
        self.guard.sweep()


@asynccontextmanager
async def serving(app: ASGIApp, seats: Seats | None = None) -> AsyncIterator[Served]:
    """Serve an application on a free port of loopback."""
    served = Served(Seats(100, 100, 100) if seats is None else seats)
    config = bounded_config(app, lifespan="off", ws_max_size=MOST_MESSAGE, timeout_graceful_shutdown=1)
    server = _Server(config, served.guard)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served.port = listener.getsockname()[1]
        task = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started)
        try:
            yield served
        finally:
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            server.should_exit = True
            await task


class _Server(BoundedServer):
    async def on_tick(self, counter: int) -> bool:
        """Leaves the guard alone: the test looks at the connections."""
        return self.should_exit

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a request with the length of its body, and returns each message of a web-socket.

    "/vouched" stands for an application that knows its caller, "/proven" for one that knows a key, and "/large" has an
    answer that fills all buffers. "/late" reads no body before the test sets `read_bodies`.
    """
    if scope["path"] == "/vouched":
        vouch_for(scope)
    if scope["path"] == "/proven":
        note_proven(scope)
    if scope["path"] == "/late":
        await read_bodies.wait()
    await (_echo_socket if scope["type"] == "websocket" else _answer)(scope, receive, send)


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = bytes(64 << 20) if scope["path"] == "/large" else str(size).encode()
    await send({"type": "http.response.body", "body": body})


async def _echo_socket(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"]})
