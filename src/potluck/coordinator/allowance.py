"""How much a node may say unasked. Pure: times come in."""

from __future__ import annotations

from potluck.errors import WireError

_PER_S = 20.0
_MOST = 200.0
"""Honest nodes say two or three such frames a second; states of sessions come in a few dozen."""


class Allowance:
    """Of one node: frames that answer no step. What was not used is saved, up to a bound."""

    def __init__(self, now: float) -> None:
        self._left = _MOST
        self._since = now

    def take(self, now: float) -> None:
        """One frame. Raises WireError when there were too many."""
        self._left = min(_MOST, self._left + _PER_S * (now - self._since)) - 1
        self._since = now
        if self._left < 0:
            raise WireError("The node floods the coordinator with frames that answer nothing.")
