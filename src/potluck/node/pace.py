"""Judges by the pace of their steps which sessions are generating, and when their next tokens are due.

Pure: times are passed in.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

_PATIENCE_S = 1.0
_PATIENCE_STEPS = 2.0
_LONGEST_S = 30.0
"""The longest time between two tokens in seconds. A session that takes longer counts as a new one."""
_BURST = 0.25
"""The part of an interval in which steps still belong to the burst that it began with. It is so small that a session
whose tokens were late for a while is soon known to be quick again.
"""
_DRIFT = 0.02
"""How far the quick interval moves towards a longer one that nothing here explains."""


@dataclass(slots=True)
class _Steps:
    """The steps of one session. Those that are sent ahead, before earlier ones are answered, may come in bursts.

    last: the time of the latest step. begun: that of its burst's first one. interval: between the latest two bursts; 0
    if there was one. quick: the interval when nobody's prompt is in the way; 0 if there was no interval.
    """

    last: float
    begun: float
    interval: float = 0.0
    quick: float = 0.0


class Pace:
    """A session is generating until its next token is overdue: by a second, and by twice its last interval."""

    def __init__(self) -> None:
        self._steps: dict[int, _Steps] = {}
        self._disturbed = -_LONGEST_S

    def disturb(self, now: float) -> None:
        """Note that a part of a prompt was computed, so that tokens may come later than they would."""
        self._disturbed = now

    def note(self, session: int, now: float, *, waits: bool = False) -> None:
        """Note that a step of a generated or guessed token has arrived. waits: whether another one of its session is
        still here.

        A step belongs to a burst if it comes so early, or early within the interval that the latest bursts had.
        """
        steps = self._steps.get(session)
        if steps is None or now - steps.last > _LONGEST_S:
            self._steps[session] = _Steps(now, now)
            return
        disturbed = self._disturbed >= steps.begun
        steps.last = now
        if waits or now - steps.begun < _BURST * steps.interval:
            return
        steps.interval, steps.begun = now - steps.begun, now
        if not steps.quick or steps.interval < steps.quick:
            steps.quick = steps.interval
        elif not disturbed:  # or prompts would make the intervals longer, and so be given ever more time
            steps.quick += _DRIFT * (steps.interval - steps.quick)

    def forget(self, session: int) -> None:
        self._steps.pop(session, None)

    def generating(self, now: float) -> set[int]:
        return {
            session
            for session, steps in self._steps.items()
            if now - steps.last <= _PATIENCE_S + _PATIENCE_STEPS * steps.interval
        }

    def spare_s(self, sessions: Set[int], now: float) -> float:
        """The seconds until the first token of these sessions, which have had one before, should be here."""
        return max(0.0, min((self._steps[one].begun + self._steps[one].quick - now for one in sessions), default=0.0))
