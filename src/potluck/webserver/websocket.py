"""uvicorn's web-socket protocol within bounds: the length of a stranger's messages, pings, and unread answers."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from potluck.webserver.guard import Standing, stand

STRANGER_MESSAGE = 64 << 10
"""The most bytes of a message from a node that has not proven its key yet."""
PROVEN_MESSAGE = 256 << 10
"""The same for one that is not admitted yet. It echoes what measures its link."""
_MOST_OF_STRANGER, _MOST_OF_NODE = 16, 1 << 14
"""The messages of a stranger and of a node between two looks at it. A stranger says hello and echoes three pings."""
_MOST_DROPPED = 64 << 10
"""The bytes of messages that are read after the socket was closed at this end."""
_MOST_CONTROLS = 32
"""The pings and pongs that a web-socket may send between two looks at it."""
_MOST_FRAGMENTS = 1024
"""The most fragments of a message. Nodes send none; a proxy may cut a long message."""
_SLICE, _SLICE_OF_NODE = 4 << 10, 64 << 10
"""The bytes of a stranger and of a node that are parsed before the bounds are checked."""
_CLOSING_S = 2.0


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """A web-socket on a connection with this standing."""

    def __init__(self, *args: Any, standing: Standing, **options: Any) -> None:
        super().__init__(*args, **options)
        self.close_timeout = _CLOSING_S
        self._standing = standing
        self._controls = 0
        self._messages = 0
        self._dropped = 0
        self._pongs = b""
        """The latest answers to pings, which wait until the other end reads again."""
        self._strange = True
        self._most_message, self.conn.max_message_size = self.conn.max_message_size, STRANGER_MESSAGE
        standing.owes, standing.on_proven, standing.on_vouched = self._look, self._believe, self._trust

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:  # it was accepted, and its task begins later
            stand(self.scope, self._standing)  # type: ignore[arg-type]

    def _believe(self) -> None:
        if self._strange:
            self.conn.max_message_size = min(PROVEN_MESSAGE, self._most_message or PROVEN_MESSAGE)

    def _trust(self) -> None:
        """Take messages of full length from now on, and many of them."""
        self._strange = False
        self.conn.max_message_size = self._most_message

    def _look(self, _: float) -> str:
        self._controls = self._messages = 0
        return ""

    def connection_lost(self, exc: Exception | None) -> None:
        self._standing.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        step = _SLICE if self._strange else _SLICE_OF_NODE
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

    def send_receive_event_to_app(self) -> None:
        """Pass a message on, unless there are too many: each of them takes room until the application reads it."""
        self._messages += 1
        self._dropped += sum(map(len, self.frames)) + 1 if self.close_sent else 0
        if self._dropped > _MOST_DROPPED or self._messages > (_MOST_OF_STRANGER if self._strange else _MOST_OF_NODE):
            self._standing.cut("sent too many messages")
        if not self.transport.is_closing():
            super().send_receive_event_to_app()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= _MOST_FRAGMENTS:
            self._standing.cut("sent too many fragments")
            return
        super().handle_cont(event)

    def resume_writing(self) -> None:
        super().resume_writing()
        pongs, self._pongs = self._pongs, b""
        self.transport.write(pongs)
