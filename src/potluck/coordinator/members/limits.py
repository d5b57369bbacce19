"""Limits how often somebody may ask. Pure: the time is passed in."""

from __future__ import annotations

_WINDOW_S = 60.0
_MOST_KNOWN = 4096
"""The number of callers that are remembered before those who have rested are forgotten."""


class Limits:
    """A token bucket for each caller, with a minute's requests at once and this number a minute on average.

    One number is kept for each bucket: the time at which it is full again.
    """

    def __init__(self) -> None:
        self._full: dict[str, float] = {}
        self._most = _MOST_KNOWN

    def wait_s(self, caller: str, per_minute: int, now: float) -> float:
        """Count a request and return 0.0, or return the seconds until the caller may send one."""
        cost = _WINDOW_S / per_minute
        full = max(self._full.get(caller, now), now) + cost
        if full - now > _WINDOW_S * (1 + 1e-9):  # sums of costs are rounded
            return full - now - _WINDOW_S
        self._full[caller] = full
        if len(self._full) > self._most:
            self._forget_rested(now)
        return 0.0

    def _forget_rested(self, now: float) -> None:
        self._full = {caller: full for caller, full in self._full.items() if full > now}
        self._most = max(_MOST_KNOWN, 2 * len(self._full))
