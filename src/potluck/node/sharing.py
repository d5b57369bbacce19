"""Gives the tensors of a node's span file to other nodes over plain HTTP on a separate port.

No node depends on this: if a firewall is between them, nodes download from the coordinator.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from potluck.models.files import LocalSource
from potluck.node.upload import Upload
from potluck.webserver.guard import Guard, vouch_for
from potluck.webserver.seats import Seats
from potluck.webserver.server import BoundedServer, bounded_config

log = logging.getLogger(__name__)

_PEER = re.compile(r"http://(?:\[([0-9a-f:]+)\]|([0-9.]+)):[0-9]{1,5}")

_AT_ONCE = 2
"""Replies that run at the same time. They must not slow down the node's own work."""
_MOST_CONNECTIONS = 64
_MOST_OF_HOUSEHOLD = 16
"""The most connections from one address, or from one network of IPv6."""
_LONGEST_S = 30.0
"""Seconds after which a reply ends, so that a slow reader does not keep others from theirs."""


@dataclass(frozen=True)
class Offer:
    """The tensors that are given, and the token that opens them.

    ranges: a tensor's SHA-256 to its (offset, nbytes) in the span file `path`.
    """

    path: Path = Path()
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    token: str = ""


class Sharing:
    """A server on its own thread, so that long computations of the node's event loop do not hold it up.

    upload: limits what is sent; None means no limit.
    """

    def __init__(self, upload: Upload | None = None) -> None:
        self._upload = upload
        self._offer = Offer()
        self._host = ""
        self._url = ""
        self._server: BoundedServer | None = None
        self._thread: threading.Thread | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def start(self, host: str, offer: Offer) -> str:
        """Offer these tensors instead of the previous ones at this address of the machine. Returns the URL.

        The URL is empty if there is nothing to offer or no way to listen.
        """
        self._offer = offer
        if not offer.token or not offer.ranges:
            return ""
        if self._server is None or host != self._host:
            self.close()
            self._listen(host)
        return self._url

    def change_token(self, token: str) -> None:
        """Offer the same tensors to holders of another token."""
        self._offer = replace(self._offer, token=token)

    def withdraw(self) -> None:
        """Offer nothing until `start` is called again. Replies that are under way continue."""
        self._offer = Offer()

    def _listen(self, host: str) -> None:
        try:
            listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            log.info("Other nodes cannot fetch from this one: it cannot listen on %s (%s).", host, error.strerror)
            return
        guard = Guard(Seats(_MOST_CONNECTIONS, _MOST_CONNECTIONS, _MOST_OF_HOUSEHOLD))
        config = bounded_config(self._app(), ws="none", lifespan="off", log_level="critical")
        self._host, self._server = host, _Server(config, guard)
        self._url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        # Not the main thread: there uvicorn leaves signals alone.
        self._thread = threading.Thread(target=self._server.run, args=[[listener]], name="potluck-sharing", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the server, including replies that are under way."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join()
        self._server, self._thread, self._url = None, None, ""

    def _app(self) -> Starlette:
        return Starlette(routes=[Route("/tensors", self._list), Route("/tensors/{sha256}", self._give)])

    async def _list(self, request: Request) -> Response:
        offer = self._offer
        if not _may(request, offer):
            return Response(status_code=401)
        vouch_for(request.scope)
        return Response(msgspec.json.encode(list(offer.ranges)), media_type="application/json")

    async def _give(self, request: Request) -> Response:
        offer = self._offer
        if not _may(request, offer):
            return Response(status_code=401)
        vouch_for(request.scope)
        found = offer.ranges.get(request.path_params["sha256"])
        if found is None:
            return Response(status_code=404)
        offset, nbytes = found
        part = parse_range(request.headers.get("range", ""), nbytes)
        if part is None:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{nbytes}"})
        if self._slots.locked():
            return Response(status_code=503)
        begin, end = part
        headers = {"Content-Range": f"bytes {begin}-{end - 1}/{nbytes}", "Content-Length": str(end - begin)}
        return _Limited(self._read(offer.path, offset + begin, end - begin), headers, self._slots)

    async def _read(self, path: Path, offset: int, nbytes: int) -> AsyncIterator[bytes]:
        """Read the file here, because this delays only this server's thread."""
        for chunk in LocalSource(path.parent).stream(path.name, offset, nbytes):
            if self._upload is not None:
                await self._upload.wait(len(chunk))
            yield chunk


class _Server(BoundedServer):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End slow replies, so that they keep neither the loop from closing nor the node from ending."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _Limited(StreamingResponse):
    """A part of a tensor, which holds one of the slots while it is sent."""

    def __init__(self, chunks: AsyncIterator[bytes], headers: dict[str, str], slots: asyncio.Semaphore) -> None:
        super().__init__(chunks, 206, headers, "application/octet-stream")
        self._slots = slots

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._slots, asyncio.timeout(_LONGEST_S):
            await super().__call__(scope, receive, send)


def _may(request: Request, offer: Offer) -> bool:
    given = request.headers.get("authorization", "")
    return bool(offer.token) and secrets.compare_digest(given.encode(), f"Bearer {offer.token}".encode())


def parse_range(header: str, nbytes: int) -> tuple[int, int] | None:
    """`bytes=FIRST-LAST` as (begin, end) within this number of bytes; None for anything else."""
    match = re.fullmatch(r"bytes=(\d{1,18})-(\d{1,18})", header)
    if match is None or not int(match[1]) <= int(match[2]) < nbytes:
        return None
    return int(match[1]), int(match[2]) + 1


def usable_peers(peers: Sequence[str], host: str) -> tuple[str, ...]:
    """The peers that a machine may ask if it reaches the coordinator from its own address `host`.

    A loopback address means another machine for each one that asks, so only nodes that came over loopback may ask
    there.
    """
    local = ip_address(host).is_loopback
    return tuple(url for url in peers if (loopback := _is_loopback(url)) is not None and (local or not loopback))


def _is_loopback(url: str) -> bool | None:
    """Whether the URL is a loopback address. None if it is not a plain address and port, so that a node is sent nowhere
    else.
    """
    match = _PEER.fullmatch(url)
    try:
        return None if match is None else ip_address(match[1] or match[2]).is_loopback
    except ValueError:
        return None
