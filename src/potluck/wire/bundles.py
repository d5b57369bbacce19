"""Bundles: several frames in one message of the web-socket, so that what belongs together arrives together. Pure.

A bundle is `<u32 0> (<u32 length> <frame>)…`, little-endian. No frame begins with 0, because each has a header.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence

from potluck.errors import WireError

MOST_FRAMES = 256
"""The most frames of a bundle. Its receiver does nothing else until it has taken them all."""
_MOST_BYTES = 1 << 20
"""The bytes after which a bundle is full. A longer one would keep its first frames waiting for the last."""

_LENGTH = struct.Struct("<I")
_MARK = _LENGTH.pack(0)


def bundle(frames: deque[bytes]) -> bytes:
    """Take frames from the left, as many as fit. Returns the message that carries them."""
    first = frames.popleft()
    if not frames:
        return first
    parts, size = [_MARK, _LENGTH.pack(len(first)), first], len(first)
    while frames and len(parts) <= 2 * MOST_FRAMES and size + len(frames[0]) <= _MOST_BYTES:
        frame = frames.popleft()
        size += len(frame)
        parts += (_LENGTH.pack(len(frame)), frame)
    return first if len(parts) == 3 else b"".join(parts)


def unbundle(message: bytes) -> Sequence[bytes]:
    """The frames that a message carries. Raises WireError when it is a malformed bundle."""
    if not message.startswith(_MARK):
        return (message,)
    frames: list[bytes] = []
    begin, end = _LENGTH.size, len(message)
    while begin < end:
        if len(frames) == MOST_FRAMES:
            raise WireError(f"A bundle holds more than {MOST_FRAMES} frames.")
        start = begin + _LENGTH.size
        if start > end:
            raise WireError("A bundle ends within a length.")
        [length] = _LENGTH.unpack_from(message, begin)
        begin = start + length
        if not length or begin > end:
            raise WireError("A bundle is shorter than its frames.")
        frames.append(message[start:begin])
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

    def pop_all(self) -> list[bytes]:
        """All frames that have come."""
        frames = list(self._frames)
        self._frames.clear()
        return frames
