"""Bundles: several frames in one message of the web-socket, so that what belongs together arrives together. Pure.

A bundle is `<u32 0> (<u32 length> <frame>)…`, little-endian. No frame begins with 0, because each has a header.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable

from potluck.errors import WireError

MOST_FRAMES = 256
"""The most frames of a bundle. Its receiver does nothing else until it has taken them all."""
_MOST_BYTES = 1 << 20
"""The bytes after which a bundle is full. A longer one would keep its first frames waiting for the last."""

_LENGTH = struct.Struct("<I")
_MARK = _LENGTH.pack(0)


def bundle(frames: deque[bytes]) -> bytes:
    """Take frames from the left, as many as fit. Returns the message that carries them."""
    taken = [frames.popleft()]
    size = len(taken[0])
    while frames and len(taken) < MOST_FRAMES and size + len(frames[0]) <= _MOST_BYTES:
        size += len(frames[0])
        taken.append(frames.popleft())
    return taken[0] if len(taken) == 1 else _MARK + b"".join(_LENGTH.pack(len(one)) + one for one in taken)


def unbundle(message: bytes) -> Iterable[bytes]:
    """The frames that a message carries. Raises WireError when it is a malformed bundle."""
    if not message.startswith(_MARK):
        return (message,)
    frames: list[bytes] = []
    begin = _LENGTH.size
    while begin < len(message):
        if len(frames) == MOST_FRAMES:
            raise WireError(f"A bundle holds more than {MOST_FRAMES} frames.")
        if len(message) - begin < _LENGTH.size:
            raise WireError("A bundle ends within a length.")
        [length] = _LENGTH.unpack_from(message, begin)
        begin += _LENGTH.size
        if not 0 < length <= len(message) - begin:
            raise WireError("A bundle is shorter than its frames.")
        frames.append(message[begin : begin + length])
        begin += length
    if not frames:
        raise WireError("A bundle is empty.")
    return frames


class Unbundled:
    """The frames of the messages that have come."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()

    def __bool__(self) -> bool:
        return bool(self._frames)

    def add(self, message: bytes) -> None:
        """Take the frames of a message. Raises WireError when it is malformed."""
        self._frames.extend(unbundle(message))

    def pop(self) -> bytes:
        """The next frame. There must be one."""
        return self._frames.popleft()
