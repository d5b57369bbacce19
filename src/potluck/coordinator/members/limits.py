"""Limits how often somebody may ask. Pure: the time is passed in."""

from __future__ import annotations

from potluck.coordinator.recent import Recent

_WINDOW_S = 60.0
_MOST_KNOWN = 16384
"""The number of callers that are remembered, which takes some megabytes. If there are more, those that have not asked
for the longest time begin anew.
"""


class Limits:
    """A token bucket for each caller, who may send a minute's requests at once, and so many a minute on average.

    One number is kept for each bucket: the time at which it is full again.
    """

    def __init__(self) -> None:
        self._full: Recent[str, float] = Recent(float, _MOST_KNOWN)

    def wait_s(self, caller: str, per_minute: int, now: float) -> float:
        """Count a request and return 0.0, or return the seconds until the caller may send one."""
        wait_s = self.left_s(caller, per_minute, now)
        if not wait_s:
            self._full[caller] = max(self._full[caller], now) + _WINDOW_S / per_minute
        return wait_s

    def left_s(self, caller: str, per_minute: int, now: float) -> float:
        """The seconds until the caller may send a request; 0.0 if it may now. Nothing is counted."""
        if (full := self._full.get(caller)) is None:
            return 0.0
        self._full[caller] = full  # whoever goes on asking is not forgotten
        wait_s = max(full, now) - now + _WINDOW_S / per_minute - _WINDOW_S
        return wait_s if wait_s > _WINDOW_S * 1e-9 else 0.0  # sums of costs are rounded
