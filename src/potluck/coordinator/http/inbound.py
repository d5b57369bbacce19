"""The client's end of a request: the body that it sends, and whether it still waits for the answer."""

from __future__ import annotations

import asyncio
import hashlib
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from potluck.coordinator.http.inflating import CODINGS, coding_of
from potluck.errors import RequestError

T = TypeVar("T")

_MAX_BODY = 2 << 20
"""The most bytes of a body. All nodes wait while it is parsed, which takes up to 40 ms."""
_TOKEN_BYTES = 16
"""The bytes of a token in JSON; few are longer."""
COPY = "copy_of_body"
"""The name in a request's state of what is given each part of its body."""
CLIENT_GONE = 499
"""nginx's status for a client that did not wait. Nobody reads this reply."""


class ClientGone(Exception):
    """The client closed the connection before its answer began."""


def most_bytes(context: int = 0) -> int:
    """The most bytes of a body: those of usual bodies, or of a prompt of this many tokens if that is more."""
    return max(_MAX_BODY, context * _TOKEN_BYTES)


def check_size(body: bytes, context: int) -> None:
    """Raises RequestError when the body is too long for a model with this context: another one may have a longer."""
    if len(body) > (most := most_bytes(context)):
        raise _too_long(most)


def _too_long(most: int) -> RequestError:
    return RequestError(f"The request is longer than {most} bytes.", status=413)


async def body_of(request: Request, context: int = 0) -> bytes:
    """The body without a byte order mark. `Crowd` has inflated it. Raises RequestError when it was compressed in a way
    that is not known, or is longer than usual bodies and than a prompt of this many tokens.
    """
    if (coding := coding_of(request.headers)) and coding not in CODINGS:
        message = (
            f"A body in {coding[:20]} cannot be read: compress it once, with gzip or deflate, or send it as it is."
        )
        raise RequestError(message, status=415)
    if kept := kept_body(request):
        return kept
    parts: list[bytes] = []
    copy: Callable[[bytes], None] = getattr(request.state, COPY, lambda _: None)
    async for part in _parts(request, most_bytes(context)):
        parts.append(part)
        copy(part)
    body = b"".join(parts).removeprefix(BOM_UTF8)
    _check_digest(request, body)
    request.state.body = body
    return body


def _check_digest(request: Request, body: bytes) -> None:
    """Raises RequestError for another body than the one with which another coordinator handed the request over."""
    digest: bytes | None = getattr(request.state, "digest", None)
    if digest is not None and hashlib.sha256(body).digest() != digest:
        raise RequestError("The body is not the one of the coordinator's pass.", status=401, code="invalid_pass")


def kept_body(request: Request) -> bytes:
    """The body, for another coordinator, until it is known that the request is answered here."""
    body: bytes = getattr(request.state, "body", b"")
    return body


async def skip_body(request: Request) -> None:
    """Receive the body, and hold nothing of it. Raises RequestError when it is longer than usual bodies."""
    async for _ in _parts(request, most_bytes()):
        pass


async def _parts(request: Request, most: int) -> AsyncIterator[bytes]:
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise _too_long(most)
            yield part
    except ClientDisconnect as error:
        raise RequestError("The client hung up while it was asking.", status=CLIENT_GONE) from error


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The work's result. It is cancelled, and ClientGone raised, when the client disconnects first."""
    task = asyncio.ensure_future(work)
    watch = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
