"""A node's web-socket at the coordinator's end."""

from __future__ import annotations

import logging

from starlette.types import Receive, Send

from potluck.errors import LinkClosed, WireError

log = logging.getLogger(__name__)


class ServerLink:
    """A node's web-socket as the ASGI server gives it: no framework between, since every hidden row passes here."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def accept(self) -> None:
        await self._receive()  # websocket.connect
        await self._send({"type": "websocket.accept"})

    async def send(self, frame: bytes) -> None:
        try:
            await self._send({"type": "websocket.send", "bytes": frame})
        except OSError as error:  # the server's word for a socket that is gone
            raise LinkClosed("The node's socket is closed.") from error

    async def receive(self) -> bytes:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise LinkClosed("The node's socket is closed.")
        frame: bytes | None = message.get("bytes")
        if frame is None:
            raise WireError("A text frame came where only binary ones are spoken.")
        return frame

    async def close(self) -> None:
        try:
            await self._send({"type": "websocket.close"})
        except (OSError, RuntimeError):  # RuntimeError: it was closed already
            log.debug("The socket was closed already.")
