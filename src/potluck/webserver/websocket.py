"""uvicorn's web-socket protocol within bounds: the length of a stranger's messages, pings, and unread answers."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from potluck.webserver.guard import Standing, stand

STRANGER_MESSAGE = 64 << 10
"""The most bytes of a message from a node that has not proven its key yet."""
_MOST_CONTROLS = 32
"""The pings and pongs that a web-socket may send between two looks at it."""
_MOST_FRAGMENTS = 1024
"""The most fragments of a message. Nodes send none; a proxy may cut a long message."""
_SLICE = 4 << 10
"""The bytes of a stranger that are parsed before the bounds are checked."""
_CLOSING_S = 2.0


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """A web-socket on a connection with this standing."""

    def __init__(self, *args: Any, standing: Standing, **options: Any) -> None:
        super().__init__(*args, **options)
        self.close_timeout = _CLOSING_S
        self._standing = standing
        self._controls = 0
        self._looked = False
        self._pongs = b""
        """The latest answers to pings, which wait until the other end reads again."""
        self._strange = True
        self._most_message, self.conn.max_message_size = self.conn.max_message_size, STRANGER_MESSAGE
        standing.owes, standing.on_proven = self._look, self._trust

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:  # it was accepted, and its task begins later
            stand(self.scope, self._standing)  # type: ignore[arg-type]

    def _trust(self) -> None:
        """Take messages of full length from now on."""
        self._strange = False
        self.conn.max_message_size = self._most_message

    def _look(self, _: float) -> str:
        self._controls = 0
        return ""

    def connection_lost(self, exc: Exception | None) -> None:
        self._standing.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        step = _SLICE if self._strange else len(data) or 1
        for begin in range(0, len(data), step):
            super().data_received(data[begin : begin + step])
            if self.transport.is_closing():
                return

    def handle_ping(self) -> None:
        """Answer, but never queue more than the latest answers for a client that does not read them."""
        pongs = b"".join(self.conn.data_to_send())
        if self.transport.is_closing():
            return
        if self.writable.is_set():
            self.transport.write(pongs)
        else:
            self._pongs = pongs or self._pongs
        self._count_control()

    def handle_pong(self, event: Frame) -> None:
        super().handle_pong(event)
        self._count_control()

    def _count_control(self) -> None:
        self._controls += 1
        if self._controls == _MOST_CONTROLS:
            self._standing.cut("sent too many pings")

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= _MOST_FRAGMENTS:
            self._standing.cut("sent too many fragments")
            return
        super().handle_cont(event)

    def resume_writing(self) -> None:
        super().resume_writing()
        pongs, self._pongs = self._pongs, b""
        self.transport.write(pongs)
