"""Limits how often somebody may ask. Pure: the time is passed in."""

from __future__ import annotations

from collections.abc import Mapping

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

    def take(self, caller: str, seconds: float, now: float) -> None:
        """Count what the caller sent elsewhere, in seconds until its bucket is as full again.

        A caller that sent more than it may waits up to a minute longer than one whose bucket is empty.
        """
        self._full[caller] = min(max(self._full[caller], now) + seconds, now + 2 * _WINDOW_S)

    def left_s(self, caller: str, per_minute: int, now: float) -> float:
        """The seconds until the caller may send a request; 0.0 if it may now. Nothing is counted."""
        if (full := self._full.get(caller)) is None:
            return 0.0
        self._full[caller] = full  # whoever goes on asking is not forgotten
        wait_s = max(full, now) - now + _WINDOW_S / per_minute - _WINDOW_S
        return wait_s if wait_s > _WINDOW_S * 1e-9 else 0.0  # sums of costs are rounded


class SharedLimits(Limits):
    """Limits that coordinators enforce together: each tells the others what it has counted."""

    def __init__(self) -> None:
        super().__init__()
        self._taken: Recent[str, float] = Recent(float, _MOST_KNOWN)

    def wait_s(self, caller: str, per_minute: int, now: float) -> float:
        wait_s = super().wait_s(caller, per_minute, now)
        if not wait_s:
            self._taken[caller] += _WINDOW_S / per_minute
        return wait_s

    def taken(self) -> dict[str, float]:
        """What each caller has taken from its bucket since this was last asked, in seconds."""
        return self._taken.drain()


def taken_of(limits: Mapping[str, SharedLimits]) -> dict[str, float]:
    """What was taken of several limits since this was last asked, in seconds. limits: each with a word for it.

    The keys are the word and the caller, with a space between.
    """
    return {f"{word} {caller}": seconds for word, each in limits.items() for caller, seconds in each.taken().items()}


def take_of(limits: Mapping[str, SharedLimits], taken: Mapping[str, float], now: float) -> None:
    """Count what `taken_of` told elsewhere, where a later version may know more limits."""
    for name, seconds in taken.items():
        word, _, caller = name.partition(" ")
        if word in limits:
            limits[word].take(caller, seconds, now)
