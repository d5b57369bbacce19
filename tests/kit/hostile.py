"""A coordinator that is only played: it admits every node, and then answers whatever a test makes it answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import uvicorn

from kit.newcomer import COORDINATOR
from potluck.types import Attention, EngineKind, Quantize, RowFormat, Span
from potluck.wire import handshake
from potluck.wire.codec import decode_from_node, encode
from potluck.wire.messages import Greeting, Welcome

WELCOME = Welcome(
    node="n1",
    model="",
    span=Span(0, 1),
    engine=EngineKind.LLAMACPP,
    quantize=Quantize.NONE,
    attention=Attention.EXACT,
    rows=RowFormat.F32,
    context=64,
)


@dataclass(frozen=True)
class Reply:
    """An HTTP reply. endless: the body is sent again and again."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    endless: bool = False

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.body
        while self.endless:
            await asyncio.sleep(0)
            yield self.body


class Hostile:
    """model: the digest that it promises. answer: its reply to a path and a Range. asked: the paths so far."""

    def __init__(self, model: str, answer: Callable[[str, str], Reply]) -> None:
        self.welcome = msgspec.structs.replace(WELCOME, model=model)
        self.asked: list[str] = []
        self._answer = answer

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve meanwhile. Gives the URL."""
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            ws="websockets-sansio",
            lifespan="off",
            log_config=None,
            log_level="critical",
            timeout_graceful_shutdown=0,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=[[listener]])
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
            listener.close()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await (self._admit if scope["type"] == "websocket" else self._serve)(scope, receive, send)

    async def _admit(self, _scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        greeting, _ = decode_from_node((await receive())["bytes"])
        assert isinstance(greeting, Greeting)
        challenge = handshake.challenge(COORDINATOR, greeting, bytes(handshake.NONCE_BYTES))
        await send({"type": "websocket.send", "bytes": encode(challenge)})
        await receive()
        await send({"type": "websocket.send", "bytes": encode(self.welcome)})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        self.asked.append(scope["path"])
        reply = self._answer(scope["path"], headers.get(b"range", b"").decode())
        told = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": told})
        gone = asyncio.create_task(self._until_gone(receive))
        async for chunk in reply.chunks():
            if gone.done():
                break
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        gone.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _until_gone(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
