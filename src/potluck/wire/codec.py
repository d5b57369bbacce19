"""Turns frames into bytes and back, without I/O.

A frame is `<u32 header length> <header: msgpack> <payload: raw bytes>`, little-endian.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from potluck.errors import SpanError, WireError
from potluck.wire.message import Message
from potluck.wire.messages import PROTOCOL_VERSION, FromCoordinator, FromNode

MAX_FRAME = 16 << 20
"""The most bytes of a frame. Longer frames are refused before they are read."""

_LENGTH = struct.Struct("<I")
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, SpanError)
"""The exceptions that decoding raises for bytes that are not a message. SpanError comes from a span's own check."""

_MOST_QUOTED = 200

_encoder = msgspec.msgpack.Encoder()
_from_node: msgspec.msgpack.Decoder[FromNode] = msgspec.msgpack.Decoder(FromNode)
_from_coordinator: msgspec.msgpack.Decoder[FromCoordinator] = msgspec.msgpack.Decoder(FromCoordinator)


class _FirstFrame(msgspec.Struct):
    """The beginning that every protocol version shares; other fields are ignored here. Up to version 2 it was the
    hello.
    """

    kind: str
    protocol: int


_first_frame = msgspec.msgpack.Decoder(_FirstFrame)


def encode(message: Message, payload: bytes | memoryview = b"") -> bytes:
    """A message and its payload as one frame. Raises WireError when it would be too long to be accepted."""
    try:
        header = _encoder.encode(message)
    except OverflowError as error:
        raise WireError("A message holds a number that is too large for the wire.") from error
    size = _LENGTH.size + len(header) + len(payload)
    if size > MAX_FRAME:
        raise WireError(f"A frame of {size} bytes is over the limit of {MAX_FRAME}.")
    return b"".join((_LENGTH.pack(len(header)), header, payload))


def decode_from_node(frame: bytes) -> tuple[FromNode, memoryview]:
    """A node's frame as (message, payload). Raises WireError when it is malformed."""
    return _decode(frame, _from_node)


def decode_from_coordinator(frame: bytes) -> tuple[FromCoordinator, memoryview]:
    """A coordinator's frame as (message, payload). Raises WireError when it is malformed."""
    return _decode(frame, _from_coordinator)


def check_version(frame: bytes) -> None:
    """Refuse a first frame that is not a Greeting of our protocol version. Raises WireError with the reason."""
    header, _ = _split(frame)
    try:
        first = _first_frame.decode(header)
    except _MALFORMED as error:
        raise WireError("The first frame is not a greeting.") from error
    if first.kind in ("greeting", "hello") and first.protocol != PROTOCOL_VERSION:
        raise WireError(
            f"The node speaks protocol {first.protocol} and the coordinator speaks protocol {PROTOCOL_VERSION}: "
            "install the same version of Potluck on both."
        )
    if first.kind != "greeting":
        raise WireError("The first frame is not a greeting.")


def _decode(frame: bytes, decoder: msgspec.msgpack.Decoder[Any]) -> tuple[Any, memoryview]:
    header, payload = _split(frame)
    try:
        return decoder.decode(header), payload
    except _MALFORMED as error:
        # It quotes what came: a stranger may have made that long, or made it to upset a terminal.
        raise WireError(f"A frame's header is malformed: {ascii(str(error))[1:-1][:_MOST_QUOTED]}.") from error


def _split(frame: bytes) -> tuple[memoryview, memoryview]:
    view = memoryview(frame)
    if len(view) < _LENGTH.size:
        raise WireError("A frame is too short to hold a header.")
    end = _LENGTH.size + _LENGTH.unpack_from(view)[0]
    if end > len(view):
        raise WireError("A frame's header is longer than the frame.")
    return view[_LENGTH.size : end], view[end:]
