"""What is kept of answers on a shelf that several coordinators share, so that any of them can go on with each.

It is sealed: only whoever has the answer's secret, and the API key with which it was asked for, can open it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import zlib
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct
from starlette.types import Message, Receive

from potluck.errors import Unavailable

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Struct)

MOST_BYTES = 900_000
"""The bytes of one value."""
_LATE_S = 2.0
"""Seconds after which the shelf counts as away."""
_PIECE = 64 << 10
_NONCE = 12
_PURPOSE = b"potluck: what is kept of an answer"


class Shelf(Protocol):
    """A store that all coordinators of a fleet share.

    Names are made of letters, digits and dots, and values have up to MOST_BYTES. A value lies there for some minutes
    after it was put, five at least. Both methods raise Unavailable while the store is away.
    """

    async def put(self, name: str, value: bytes) -> None:
        """Put a value in place of the one that has the name."""

    async def get(self, name: str) -> bytes | None:
        """The value with this name; None if there is none any more."""


class Asked(Struct, frozen=True, array_like=True):
    """What was asked for, and what an equal answer needs besides. path: that of the request.

    body: the request's, packed with zlib. length: that of the body before. account: whose it is.
    digest: the model's. seeds: those of the choices. seed, created: those of the answer's ids.
    before: the response that it follows, and the messages before that, packed.
    """

    path: str
    body: bytes
    length: int
    account: str
    digest: str
    seeds: tuple[int, ...]
    seed: bytes
    created: int
    before: tuple[bytes, bytes] | None = None


class Told(Struct, frozen=True, array_like=True):
    """The tokens that the answer has, of each choice. turn: how often it was begun again elsewhere."""

    turn: int
    tokens: tuple[tuple[int, ...], ...]


class Watched:
    """A shelf that is away when it is late. Its absence is logged once."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._is_away = False

    async def put(self, name: str, value: bytes) -> None:
        try:
            async with asyncio.timeout(_LATE_S):
                await self._shelf.put(name, value)
        except (TimeoutError, Unavailable) as error:
            raise self._away(error) from error
        self._is_away = False

    async def get(self, name: str) -> bytes | None:
        try:
            async with asyncio.timeout(_LATE_S):
                value = await self._shelf.get(name)
        except (TimeoutError, Unavailable) as error:
            raise self._away(error) from error
        self._is_away = False
        return value

    def _away(self, error: Exception) -> Unavailable:
        if not self._is_away:
            self._is_away = True
            log.warning("Answers are not kept now, because the fleet's store is away: %s", str(error) or "it is late.")
        return Unavailable("The store of kept answers is away: try again.")


class Seal:
    """Seals what is kept of one answer. secret: the answer's. key: the API key with which it was asked for, or ""."""

    def __init__(self, secret: bytes, key: str) -> None:
        self._folder = hashlib.sha256(b"name" + secret).hexdigest()[:32]  # says nothing of the secret
        self._cipher = AESGCM(HKDF(SHA256(), 32, None, _PURPOSE).derive(secret + key.encode()))

    def name(self, kind: str) -> str:
        return f"{self._folder}.{kind}"

    def close(self, name: str, value: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, value, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes | None:
        """The value; None if it was sealed with another key or for another name."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode())
        except (InvalidTag, ValueError):  # a value that is too short
            return None


@dataclass(frozen=True)
class KeptAnswer:
    """One answer on the shelf. All of this raises Unavailable while the shelf is away."""

    shelf: Shelf
    seal: Seal

    async def asked(self) -> Asked | None:
        """What was asked for; None if it is not kept, or not for whoever has this key."""
        return await self._get("ask", Asked)

    async def told(self) -> Told | None:
        """The tokens so far; None if none are kept."""
        return await self._get("told", Told)

    async def keep(self, value: Asked | Told) -> int | None:
        """Keep what was asked for, or the tokens so far. Returns the bytes of it; None if they are too many."""
        name = self.seal.name("ask" if isinstance(value, Asked) else "told")
        sealed = self.seal.close(name, msgspec.msgpack.encode(value))
        if len(sealed) > MOST_BYTES:
            return None
        await self.shelf.put(name, sealed)
        return len(sealed)

    async def renew(self) -> None:
        """Let what was asked for lie there for longer."""
        name = self.seal.name("ask")
        value = await self.shelf.get(name)
        if value is not None:
            await self.shelf.put(name, value)

    async def _get(self, kind: str, form: type[S]) -> S | None:
        name = self.seal.name(kind)
        sealed = await self.shelf.get(name)
        value = None if sealed is None else self.seal.open(name, sealed)
        try:
            return None if value is None else msgspec.msgpack.decode(value, type=form)
        except msgspec.ValidationError:  # a coordinator of another version keeps something else
            return None


class Copy:
    """A copy of a body that comes in parts, packed meanwhile."""

    def __init__(self) -> None:
        self._packer = zlib.compressobj(1)
        self._parts: list[bytes] = []
        self._size = 0
        self.length = 0

    def add(self, part: bytes) -> None:
        self.length += len(part)
        self._take(self._packer.compress(part))

    def take(self) -> bytes | None:
        """All of it, packed, which is not held here any longer; None if it is too much to be kept."""
        self._take(self._packer.flush())
        whole = b"".join(self._parts)
        self._parts = []
        return whole if self._size <= MOST_BYTES else None

    def _take(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= MOST_BYTES:
            self._parts.append(part)
        else:
            self._parts = []


def packed(value: bytes) -> bytes:
    return zlib.compress(value, 1)


def unpacked(value: bytes) -> bytes:
    return zlib.decompress(value)


def receiving(body: bytes, receive: Receive) -> Receive:
    """What receives a body that was packed, and then whatever comes of the client: it may hang up."""
    unpacker, rest = zlib.decompressobj(), body

    async def received() -> Message:
        nonlocal rest
        if unpacker.eof:
            return await receive()
        piece = unpacker.decompress(rest, _PIECE)
        rest = unpacker.unconsumed_tail
        return {"type": "http.request", "body": piece, "more_body": not unpacker.eof}

    return received
