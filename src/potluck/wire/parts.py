"""Cuts a session's keys and values into parts that fit into frames, and puts them together again."""

from __future__ import annotations

from collections.abc import Iterator

from potluck.errors import WireError
from potluck.wire.codec import encode
from potluck.wire.messages import MOST_STATE, Exported, Import

_PART = 4 << 20
"""The most bytes of a part in one frame."""


def state_frames(kind: type[Exported] | type[Import], session: int, state: bytes) -> Iterator[bytes]:
    """The frames that carry the state. An empty state becomes one frame without a payload."""
    for start in range(0, max(1, len(state)), _PART):
        end = min(start + _PART, len(state))
        yield encode(kind(session, len(state) - end), memoryview(state)[start:end])


class Parts:
    """The parts of one state that have arrived so far."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._left: int | None = None

    def add(self, left: int, part: bytes | memoryview) -> bytes | None:
        """Add a part. Returns the whole with the last part, and None before. Raises WireError for a part that does not
        follow.
        """
        follows = self._left is None or left + len(part) == self._left
        if left < 0 or not follows or (left and not part) or len(self._data) + len(part) + left > MOST_STATE:
            raise WireError("A part of a session's keys and values does not follow the ones before.")
        self._data += part
        self._left = left
        return None if left else bytes(self._data)
