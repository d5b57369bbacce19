"""Decides when the owner lets a node work. Pure: the time of day, the machine's use and the clock are passed in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from potluck.errors import PotluckError
from potluck.types import PauseReason

BUSY_CORES = 0.25
"""Other programs use this many cores on a machine that somebody works on. On a quiet machine they use a twentieth."""

QUIET_S = 60.0
"""Seconds without use after which a machine counts as idle."""

_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Hours:
    """A time span of each day in local minutes, from `first` up to `end`. It passes midnight if `end` comes before
    `first`.
    """

    first: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Hours:
        """Parse `"22-07"` or `"22:30-6:15"`. Raises PotluckError for anything else, and for an empty time span."""
        match = re.fullmatch(r"(\d{1,2})(?::(\d\d))?-(\d{1,2})(?::(\d\d))?", text.strip())
        if match is not None:
            first, end = (_minute(*match.group(at, at + 1)) for at in (1, 3))
            if first < _DAY and end <= _DAY and first != end:
                return cls(first, end)
        raise PotluckError(f"{text!r} is not a time span: write it as 22-07 or 22:30-6:15.")

    def __contains__(self, minute: int) -> bool:
        if self.first < self.end:
            return self.first <= minute < self.end
        return minute >= self.first or minute < self.end


def _minute(hour: str, minutes: str | None) -> int:
    """The minute of the day; a number past the end of the day if there is no such time."""
    return int(hour) * 60 + int(minutes or 0) if int(minutes or 0) < 60 else _DAY + 1


class Permit:
    """Decides whether a node may work.

    hours: None means always. idle_only: only while nobody uses the machine. on_battery: a laptop's battery may be used.
    paused: the owner paused the node by hand.
    """

    def __init__(self, hours: Hours | None = None, idle_only: bool = False, on_battery: bool = False) -> None:
        self.paused = False
        self._hours = hours
        self._idle_only = idle_only
        self._on_battery = on_battery
        self._used: float | None = None

    def refusal(self, minute: int, busy: float, now: float, battery: bool = False) -> PauseReason | None:
        """The reason why the node may not work now, or None.

        minute: of the day. busy: cores that other programs used, on average since the last call. now: seconds.
        battery: the machine runs on its battery.
        """
        if busy >= BUSY_CORES:
            self._used = now
        if self.paused:
            return PauseReason.OWNER
        if self._hours is not None and minute not in self._hours:
            return PauseReason.HOURS
        if battery and not self._on_battery:
            return PauseReason.BATTERY
        if self._idle_only and self._used is not None and now - self._used < QUIET_S:
            return PauseReason.BUSY
        return None
