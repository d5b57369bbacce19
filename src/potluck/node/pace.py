"""Judges by the pace of their steps which sessions are generating. Pure: times are passed in."""

from __future__ import annotations

_PATIENCE_S = 1.0
_PATIENCE_STEPS = 2.0
_LONGEST_S = 30.0
"""The longest time between two tokens in seconds. A session that takes longer counts as a new one."""


class Pace:
    """A session is generating until its next token is overdue: by a second, and by twice its last interval."""

    def __init__(self) -> None:
        self._steps: dict[int, tuple[float, float]] = {}

    def note(self, session: int, now: float) -> None:
        """Note that a step of a generated token has arrived."""
        since = now - self._steps[session][0] if session in self._steps else 0.0
        self._steps[session] = now, since if since <= _LONGEST_S else 0.0

    def _generates(self, session: int, now: float) -> bool:
        last, interval = self._steps[session]
        return now - last <= _PATIENCE_S + _PATIENCE_STEPS * interval

    def forget(self, session: int) -> None:
        self._steps.pop(session, None)

    def generating(self, now: float) -> set[int]:
        return {session for session in self._steps if self._generates(session, now)}
