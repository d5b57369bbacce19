"""Inflates bodies that a client has compressed with gzip or deflate: a few bytes may stand for very many."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from potluck.errors import RequestError

PIECE = 64 << 10
"""The most bytes that are inflated at once."""
_MOST_SURPLUS = 64 << 10
"""The bytes by which a body may be longer compressed than not: it may have many members, but not any number."""
_GZIP, _ZLIB, _RAW = 31, 15, -15
"""zlib's names of the formats, with windows of full size."""
CODINGS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
"""What can be inflated."""


def coding_of(headers: Headers) -> str:
    """How a body is compressed, in the words of its Content-Encoding; empty if it is sent as it is."""
    named = (part.strip().lower() for part in ",".join(headers.getlist("content-encoding")).split(","))
    return ", ".join(part for part in named if part not in ("", "identity"))


class Inflater:
    """Inflates one body. Pure. coding: one of CODINGS."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._stream: Any = None
        """zlib's, of the member that is being read."""
        self._left = b""
        """What has come and was not read yet."""
        self._has_more = False
        """Whether the stream may give more without reading on."""
        self._surplus = 0

    def feed(self, data: bytes) -> None:
        """Add what has come."""
        self._left += data

    def pop(self) -> bytes:
        """The next piece; empty when more has to come first. Raises RequestError when the bytes cannot be inflated."""
        piece = b""
        while not piece and (self._left or self._has_more):
            if self._stream is None or self._stream.eof:
                self._begin()
            piece = self._inflate()
        return piece

    @property
    def is_complete(self) -> bool:
        """Whether the body may end here."""
        return self._stream is None or self._stream.eof

    def _begin(self) -> None:
        """Begin the next member. Of deflate there is one, which some clients send without the header of zlib."""
        if self._stream is not None and CODINGS[self._coding] == _ZLIB:
            raise self._broken()
        is_raw = CODINGS[self._coding] == _ZLIB and self._left[0] & 15 != zlib.DEFLATED
        self._stream = zlib.decompressobj(_RAW if is_raw else CODINGS[self._coding])

    def _inflate(self) -> bytes:
        before = len(self._left)
        try:
            piece: bytes = self._stream.decompress(self._left, PIECE)
        except zlib.error as error:
            raise self._broken() from error
        self._left = self._stream.unconsumed_tail or self._stream.unused_data
        self._has_more = len(piece) == PIECE and not self._stream.eof
        self._surplus += before - len(self._left) - len(piece)
        if self._surplus > _MOST_SURPLUS:
            raise RequestError(f"The body is much longer in {self._coding} than without it: send it as it is.")
        return piece

    def _broken(self) -> RequestError:
        return RequestError(f"The body is not in {self._coding}, although its Content-Encoding says so.")


class Inflating:
    """`receive` for a request whose body is compressed: as if it had been sent as it is."""

    def __init__(self, coding: str, receive: Receive) -> None:
        self._inflater = Inflater(coding)
        self._coding = coding
        self._receive = receive
        self._is_open, self._is_told = True, False
        """Whether more may come of the body, and whether its end was passed on."""

    async def __call__(self) -> Message:
        if self._is_told:
            return await self._receive()
        await asyncio.sleep(0)  # where few bytes stand for very many, others have their turns
        while not (piece := self._inflater.pop()) and self._is_open:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._inflater.feed(message.get("body", b""))
            self._is_open = message.get("more_body", False)
        if not piece and not self._inflater.is_complete:
            raise RequestError(f"The body ends before its {self._coding} does: send all of it.")
        self._is_told = not piece
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}
