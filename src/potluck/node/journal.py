"""Keeps what a stage sent on for its open sessions, so that the next stage can be rebuilt on another node."""

from __future__ import annotations

import numpy as np

from potluck.engine.base import Rows


class Journal:
    """The output rows `[n, width]` of each session from position 0 on, at most `limit` bytes in total.

    When it is full, the session that was noted longest ago loses its whole journal, because a part of it would be of no
    use. Rows are kept as float32, so that what is rebuilt from them equals what was lost, bit for bit.
    """

    def __init__(self, width: int, limit: int) -> None:
        self._row_bytes = 4 * width
        self._width = width
        self._limit = limit
        self._rows: dict[int, bytearray] = {}
        self._nbytes = 0

    def note(self, session: int, position: int, rows: Rows) -> None:
        """Note the stage's output for these positions. It replaces everything from `position` on.

        Nothing is noted for a session whose beginning is missing.
        """
        self.truncate(session, position)
        held = self._rows.pop(session, bytearray())
        if len(held) != position * self._row_bytes:
            self._nbytes -= len(held)
            return
        data = np.ascontiguousarray(rows, np.float32).data.cast("B")
        held += data
        self._rows[session] = held  # behind all others: it is the latest
        self._nbytes += len(data)
        while self._nbytes > self._limit:
            self.close(next(iter(self._rows)))

    def rows(self, session: int, position: int, count: int) -> Rows | None:
        """The rows of these positions, `[count, width]`, or None if some of them are missing."""
        first, end = position * self._row_bytes, (position + count) * self._row_bytes
        held = self._rows.get(session, b"")
        if not 0 <= first < end <= len(held):
            return None
        return np.frombuffer(bytes(held[first:end]), np.float32).reshape(count, self._width)

    def truncate(self, session: int, length: int) -> None:
        """Forget the session's positions from `length` on."""
        held = self._rows.get(session)
        if held is not None and len(held) > length * self._row_bytes:
            self._nbytes -= len(held) - length * self._row_bytes
            del held[length * self._row_bytes :]

    def close(self, session: int) -> None:
        self._nbytes -= len(self._rows.pop(session, b""))
