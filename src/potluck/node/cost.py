"""Estimates what a forward pass costs: a fixed part for the pass, and a part for each of its rows. Pure.

One row alone takes as long as two or three rows that are added to others, because the weights are read once for all of
them. So the two parts have to be known apart.
"""

from __future__ import annotations

from potluck.types import MAX_STEP_ROWS, Speed

_RATE = 0.25
"""The part of an error that is corrected at once."""
_MOST_ERROR = 1.0
"""The largest error that counts, relative to what was expected: a pass beside other programs may take far longer."""
_LEAST_SHARE = 0.02
"""The least share of each part in a pass of one row. With less, it would hardly ever grow again."""


class Cost:
    """The cost of forward passes of one kind. speed: what was measured when the engine was loaded."""

    def __init__(self, speed: Speed) -> None:
        # A pass of one row took `decode_s`, and one of MAX_STEP_ROWS took so many times `prefill_s`.
        self._row_s = max(0.0, MAX_STEP_ROWS * speed.prefill_s - speed.decode_s) / (MAX_STEP_ROWS - 1)
        self._pass_s = max(0.0, speed.decode_s - self._row_s)
        self._keep_both()

    def note(self, rows: int, seconds: float) -> None:
        """Note how long a pass of so many rows took.

        Each part changes by its share of the error, so that passes of one size leave their proportion as it is, and
        passes of several sizes show it.
        """
        expected = self.seconds(rows)
        error = min(_MOST_ERROR, (seconds - expected) / expected)
        share = self._pass_s / expected
        step = _RATE * error / (share**2 + (1 - share) ** 2)
        self._pass_s *= max(0.1, 1 + step * share)
        self._row_s *= max(0.1, 1 + step * (1 - share))
        self._keep_both()

    def _keep_both(self) -> None:
        least = _LEAST_SHARE * (self._pass_s + self._row_s)
        self._pass_s, self._row_s = max(self._pass_s, least), max(self._row_s, least)

    def seconds(self, rows: int) -> float:
        """The seconds that a pass of so many rows should take."""
        return self._pass_s + rows * self._row_s

    def rows_within(self, seconds: float) -> int:
        """The most rows that a pass can have and end within this time; 1 if it has no time for any."""
        return max(1, int((seconds - self._pass_s) / self._row_s))
