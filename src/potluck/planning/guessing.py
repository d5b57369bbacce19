"""Decides how many guessed tokens a session may have under way: as many as pay. Pure.

A pass through the whole route takes `pass_s`. While it lasts, the stages and the links could do more: one row each
`row_s`, the time of the slowest of them. If a share of the guesses is right, then on average `share / (1 - share)` of
them come in a row. The tokens a second with `ahead` guesses under way are therefore about

    (right + 1) / (pass_s + right * max(row_s, pass_s / (ahead + 1)))
"""

from __future__ import annotations

from math import log

from msgspec import Struct

MOST_AHEAD = 15
"""The most guesses of a session that are under way at once."""

_LEAST_CHANCE = 0.06
"""A guess is fed if it will be of use at least this often: if it and all guesses before it are right."""

_LEAST_GAIN = 1.05
"""A gain that is smaller than this is not worth the rows that are computed in vain."""

_EXPECTED_COUNT = 2
"""The guesses that an expectation weighs as much as."""

_SURE = 0.999
"""The highest share that is believed, because the next guess may always be the first wrong one."""


class Pass(Struct, frozen=True):
    """How a session's tokens pass through its route now, in seconds.

    pass_s: from the first stage to the candidates of a token. row_s: what the slowest stage or link takes for a row.
    sessions: those that generate now, this one among them.
    """

    pass_s: float
    row_s: float
    sessions: int

    @property
    def room(self) -> int:
        """The rows that each session may have under way, so that no stage has more to do than it can."""
        return int(self.pass_s / max(self.row_s, 1e-6) / max(self.sessions, 1) + 0.5)


def most_ahead(share: float, now: Pass) -> int:
    """The number of guesses that may be under way besides the token that is known. share: of the guesses, the right
    ones.
    """
    share = min(share, _SURE)
    if share <= 0:
        return 0
    useful = max(1, int(log(_LEAST_CHANCE) / log(share)))
    ahead = min(useful, now.room - 1, MOST_AHEAD)
    return ahead if ahead > 0 and gain(share, now, ahead) >= _LEAST_GAIN else 0


def gain(share: float, now: Pass, ahead: int) -> float:
    """How many times as many tokens come in a second as without guesses."""
    right = share / (1 - share)
    return (right + 1) / (1 + right * max(now.row_s / now.pass_s, 1 / (ahead + 1)))


class Share:
    """The share of right guesses. expected: before the first guess, which weighs as much as a few guesses.

    weight: the least weight of the latest guess. The first ones weigh more.
    """

    def __init__(self, expected: float, weight: float) -> None:
        self.value = expected
        self._weight = weight
        self._count = _EXPECTED_COUNT

    def note(self, right: bool) -> None:
        self._count += 1
        self.value += max(self._weight, 1 / self._count) * (right - self.value)


_TRY = 16
"""The tokens after which it is judged whether they take longer."""
_REST, _LONGEST_REST = 512, 8192
"""The tokens for which it then makes no guesses, which double with each try in vain."""


_HARM = 1.1
"""How many times as long tokens may take with guesses. Guesses that are merely of no use are soon known as wrong."""


class Trial:
    """Finds out whether guesses do harm on a route, because stages, or the small model, share processors.

    It compares what tokens take with guesses and without, and lets guesses rest for a while where they take longer.
    """

    def __init__(self) -> None:
        self._rest, self._next_rest = 0, _REST
        self._tried, self._taken_s, self._plain_s = 0, 0.0, 0.0

    @property
    def is_on(self) -> bool:
        """Whether guesses may be made now."""
        return self._rest == 0

    def note_rest(self) -> None:
        """Note a token without guesses."""
        self._rest = max(0, self._rest - 1)

    def note(self, seconds: float, plain_s: float) -> None:
        """Note a token with guesses that took so long, where one without takes `plain_s`."""
        self._tried += 1
        self._taken_s += seconds
        self._plain_s += plain_s
        if self._tried < _TRY:
            return
        if self._taken_s > _HARM * self._plain_s:
            self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, _LONGEST_REST)
        else:
            self._next_rest = _REST
        self._tried, self._taken_s, self._plain_s = 0, 0.0, 0.0
