"""uvicorn's HTTP protocol within bounds: the length of a head, and the times for a head and for a body."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_remote_addr

from potluck.webserver.guard import Guard, Standing, stand
from potluck.webserver.websocket import BoundedWebSocket

MOST_HEAD = 32 << 10
"""The most bytes of a request's head, of a trailer, or of anything else that is not a body."""
_MOST_HEADERS = 128
_MOST_PIPELINED = 8
"""Requests that a connection may send before the first of them is answered."""
_MOST_IGNORED = 4 << 20
"""The most bytes of a body that are read and dropped after its request was answered."""
_SLICE = 4 << 10
"""The bytes that are parsed before the bounds are checked."""

_LINGER_S = 2.0
"""Seconds in which a client that was refused may read why."""
HEAD_S = 10.0
"""Seconds that a connection may take for the head of its next request."""
_BODY_S = 10.0
_LEAST_RATE = 16 << 10
"""The bytes a second at which a body must come after its first seconds."""


class BoundedHttp(HttpToolsProtocol):
    """One connection. What it owes is checked by the guard; what it sends too much of is checked here."""

    standing: Standing

    def __init__(self, *args: Any, guard: Guard, **options: Any) -> None:
        super().__init__(*args, **options)
        self._guard = guard
        self._unparsed = 0
        """The bytes since the latest part that was understood as a whole."""
        self._received = 0
        """The bytes of the body so far."""
        self._head_since: float | None = None
        self._body_since: float | None = None
        self._refused_since: float | None = None
        self._looked: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address, _ = get_remote_addr(transport) or ("", 0)
        self.standing = self._guard.enter(transport, address)
        self.standing.owes = self._owes
        self.ws_protocol_class = partial(BoundedWebSocket, standing=self.standing)  # type: ignore[assignment]
        self._head_since = self._guard.clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self.standing.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused_since is not None:
            self._drop(data)
            return
        for begin in range(0, len(data), _SLICE):
            piece = data[begin : begin + _SLICE]
            self._unparsed += len(piece)
            super().data_received(piece)
            if self.transport.is_closing() or self.transport.get_protocol() is not self:
                return
            if self._unparsed > MOST_HEAD or len(self.headers or ()) > _MOST_HEADERS:
                message = f"The head of a request may have up to {MOST_HEAD} bytes and {_MOST_HEADERS} lines."
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)
            if self._refused_since is not None:
                self._drop(data[begin:])
                return
            if len(self.pipeline) > _MOST_PIPELINED or self._ignores_too_much():
                self.standing.cut("sent more than was asked for")
                return

    def _ignores_too_much(self) -> bool:
        return self._received > _MOST_IGNORED and self.cycle is not None and self.cycle.response_complete

    def send_400_response(self, msg: str) -> None:
        """Answer that this is no HTTP. msg: uvicorn's words, which name neither the fault nor the cure."""
        self._refuse(HTTPStatus.BAD_REQUEST, "The request is not valid HTTP/1.1, so nothing of it was done.")

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer what cannot become a request, unless another answer is under way on this connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.standing.cut("sent what is no request")
            return
        self._refused_since = self._guard.clock()
        self.transport.write(_refusal(status, message))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:  # TLS is spoken
            self.transport.close()

    def _drop(self, data: bytes) -> None:
        """Read what a refused client still sends: if the connection were closed at once, the answer would be lost."""
        self._received += len(data)
        if self._received > _MOST_IGNORED:
            self.standing.cut("sent more than was asked for")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._received = 0
        self._head_since = self._head_since or self._guard.clock()
        stand(self.scope, self.standing)  # type: ignore[arg-type]

    def on_headers_complete(self) -> None:
        self._unparsed, self._head_since, self._body_since = 0, None, self._guard.clock()
        if self._guard.asks_too_often(self.standing) and not any(name == b"authorization" for name, _ in self.headers):
            self.standing.cut("asked too often")
            return
        earlier = self.cycle
        super().on_headers_complete()
        if self.cycle is not earlier and self.cycle.scope["http_version"] == "1.0":
            self.cycle.send = partial(_send_unchunked, self.cycle, self.cycle.send)  # type: ignore[method-assign]

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        self._received += len(body)
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed, self._body_since = 0, None
        if self.cycle is None or self.transport.is_closing():  # it was cut when its head was complete
            return
        if self.cycle.response_complete:
            self._head_since = self._guard.clock()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if not self.standing.doubt():
            self._guard.note_request(self.standing)
        if not self.pipeline and self._body_since is None:
            self._head_since = self._guard.clock()
        super().on_response_complete()

    @property
    def _reads_on(self) -> bool:
        """Whether the client may still be reading the latest answer."""
        return self.cycle is not None and self.standing.has_unread

    def _owes(self, now: float) -> str:
        if self._refused_since is not None:
            return "did not close" if now - self._refused_since > _LINGER_S else ""
        passed_s, self._looked = now - (self._looked or now), now
        if self._head_since is not None and now - self._head_since > HEAD_S and not self._reads_on:
            return "did not send the head of a request in time"
        if self._body_since is None:
            return ""
        if self.flow.read_paused:  # it is we who do not take more
            self._body_since += passed_s
            return ""
        most_s = _BODY_S + self._received / _LEAST_RATE
        return "did not send the body of a request in time" if now - self._body_since > most_s else ""


def _refusal(status: HTTPStatus, message: str) -> bytes:
    """An answer with an error in OpenAI's form, in full, after which the connection is closed."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    body = json.dumps({"error": error})
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()


async def _send_unchunked(cycle: RequestResponseCycle, send: Callable[[Any], Awaitable[None]], message: Any) -> None:
    """Send a part of an answer to a client of HTTP/1.0, which knows no chunks: the answer ends with the connection."""
    if message["type"] == "http.response.start":
        if not any(name.lower() == b"content-length" for name, _ in message.get("headers", ())):
            cycle.chunked_encoding = False
    elif cycle.expected_content_length == 0:  # no length was named
        cycle.expected_content_length = len(message.get("body", b""))
    await send(message)
