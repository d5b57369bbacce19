"""A web-socket client of so few calls that the coordinator is what limits the benchmark. Its mask is all zeros."""

from __future__ import annotations

import asyncio
import struct
import time
from abc import ABC, abstractmethod
from typing import cast

BINARY, PING, PONG = 2, 9, 10
_MASKED = _FINAL = 128


class WebSocket(asyncio.Protocol, ABC):
    """A connection to the coordinator's /node, which calls `opened`, `received` and `lost`."""

    def __init__(self) -> None:
        self._open = False
        self._buffer = bytearray()

    @abstractmethod
    def opened(self) -> None:
        """The coordinator has agreed to speak web-socket."""

    @abstractmethod
    def received(self, frame: bytes, moment: float) -> None:
        """A binary frame has come at this moment of `time.perf_counter`."""

    @abstractmethod
    def lost(self) -> None:
        """The connection is gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        host, port = transport.get_extra_info("peername")[:2]
        self._transport.write(
            f"GET /node HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def connection_lost(self, _: Exception | None) -> None:
        self.lost()

    def data_received(self, data: bytes) -> None:
        moment = time.perf_counter()
        self._buffer += data
        if not self._open:
            head, found, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._open, self._buffer = True, bytearray(rest)
            self.opened()
        for kind, payload in self._frames():
            if kind == BINARY:
                self.received(payload, moment)
            elif kind == PING:
                self.send(payload, PONG)

    def _frames(self) -> list[tuple[int, bytes]]:
        """The complete frames with their kinds. The rest stays in the buffer."""
        buffer, start, frames = self._buffer, 0, []
        while len(buffer) - start >= 2:
            kind, size, body = buffer[start] & 15, buffer[start + 1], start + 2
            if size == 126:
                body += 2
                size = int.from_bytes(buffer[start + 2 : body])
            elif size == 127:
                body += 8
                size = int.from_bytes(buffer[start + 2 : body])
            if len(buffer) < body + size:
                break
            frames.append((kind, bytes(memoryview(buffer)[body : body + size])))
            start = body + size
        if start:
            self._buffer = buffer[start:]
        return frames

    def send(self, frame: bytes, kind: int = BINARY) -> None:
        size = len(frame)
        if size < 126:
            head = struct.pack(">BBI", _FINAL | kind, _MASKED | size, 0)
        elif size < 1 << 16:
            head = struct.pack(">BBHI", _FINAL | kind, _MASKED | 126, size, 0)
        else:
            head = struct.pack(">BBQI", _FINAL | kind, _MASKED | 127, size, 0)
        self._transport.write(head + frame)
