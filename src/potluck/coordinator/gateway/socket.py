"""A node's web-socket at the coordinator's end."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Receive, Send

from potluck.errors import LinkClosed, WireError
from potluck.wire.codec import encode
from potluck.wire.fleet import Redirect
from potluck.wire.link import BundledLink, Link
from potluck.wire.messages import Refusal

log = logging.getLogger(__name__)

_FAREWELL_S = 2.0
_LONGEST_REASON = 500


class ServerLink(BundledLink):
    """A node's web-socket as the ASGI server gives it, without a framework in between, because every hidden row passes
    here.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        super().__init__()
        self._receive = receive
        self._send = send

    async def accept(self) -> None:
        await self._receive()  # websocket.connect
        await self._send({"type": "websocket.accept"})

    async def send(self, message: bytes) -> None:
        try:
            await self._send({"type": "websocket.send", "bytes": message})
        except OSError as error:  # the server's word for a socket that is gone
            raise LinkClosed("The node's socket is closed.") from error

    async def _message(self) -> bytes:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise LinkClosed("The node's socket is closed.")
        data: bytes | None = message.get("bytes")
        if data is None:
            raise WireError("A text frame came where only binary frames are allowed.")
        return data

    async def close(self) -> None:
        try:
            await self._send({"type": "websocket.close"})
        except (OSError, RuntimeError):  # RuntimeError: it was closed already
            log.debug("The socket was closed already.")


async def farewell(link: Link, last: Refusal | Redirect | None) -> None:
    """Close the link, after the last word if there is one."""
    if isinstance(last, Refusal):
        last = Refusal(last.reason[:_LONGEST_REASON])
    try:
        async with asyncio.timeout(_FAREWELL_S):
            if last is not None:
                await link.send(encode(last))
            await link.close()
    except (LinkClosed, TimeoutError):
        log.debug("The node did not wait for our farewell.")
