"""When its owner lets a node work. Pure: the time of day, what others use of the machine, and the clock come in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from potluck.errors import PotluckError
from potluck.types import PauseReason

BUSY_CORES = 0.25
"""That other programs use on a machine that somebody works on; a quiet one uses a twentieth."""

QUIET_S = 60.0
"""A machine counts as idle once nobody has used it for so long."""

_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Hours:
    """Each day from the minute `first` up to `end`, local time; over midnight where `end` comes before `first`."""

    first: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Hours:
        """`"22-07"` or `"22:30-6:15"`. Raises PotluckError for anything else, and for no time at all."""
        match = re.fullmatch(r"(\d{1,2})(?::(\d\d))?-(\d{1,2})(?::(\d\d))?", text.strip())
        if match is not None:
            first, end = (_minute(*match.group(at, at + 1)) for at in (1, 3))
            if first < _DAY and end <= _DAY and first != end:
                return cls(first, end)
        raise PotluckError(f"{text!r} are no hours: write them as 22-07 or 22:30-6:15.")

    def __contains__(self, minute: int) -> bool:
        if self.first < self.end:
            return self.first <= minute < self.end
        return minute >= self.first or minute < self.end


def _minute(hour: str, minutes: str | None) -> int:
    """Of the day; past its end where there is no such time."""
    return int(hour) * 60 + int(minutes or 0) if int(minutes or 0) < 60 else _DAY + 1


class Permit:
    """hours: None: always. idle_only: only while nobody uses the machine. paused: the owner said so by hand."""

    def __init__(self, hours: Hours | None = None, idle_only: bool = False) -> None:
        self.paused = False
        self._hours = hours
        self._idle_only = idle_only
        self._used: float | None = None

    def refusal(self, minute: int, busy: float, now: float) -> PauseReason | None:
        """Why the node may not work now, or None.

        minute: of the day. busy: cores that other programs use, on average since the last call. now: seconds.
        """
        if busy >= BUSY_CORES:
            self._used = now
        if self.paused:
            return PauseReason.OWNER
        if self._hours is not None and minute not in self._hours:
            return PauseReason.HOURS
        if self._idle_only and self._used is not None and now - self._used < QUIET_S:
            return PauseReason.BUSY
        return None
