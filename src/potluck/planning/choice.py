"""Chooses among the models of a coordinator the one that a newcomer helps most. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from potluck.types import Prospect


def most_helped(prospects: Sequence[Prospect]) -> int:
    """The place of the prospect that gains most, the first among equals.

    A model that the newcomer completes comes first, and then one that lacks layers which the newcomer brings: the one
    that lacks the fewest afterwards. Where none does, the tokens a second of many streams count, as a ratio.
    """
    return max(range(len(prospects)), key=lambda place: (_gain(prospects[place]), -place))


def brings_layers(prospect: Prospect) -> bool:
    """Whether the newcomer brings layers that nobody else serves."""
    return _lacking(prospect, joined=True) < _lacking(prospect, joined=False)


def is_completed(prospect: Prospect, helpers: int) -> bool:
    """Whether so many machines, which bring as many layers each as this one, complete the model."""
    lacking, left = _lacking(prospect, joined=False), _lacking(prospect, joined=True)
    return left <= (helpers - 1) * (lacking - left)


def _gain(prospect: Prospect) -> tuple[bool, bool, float]:
    without, joined = _lacking(prospect, joined=False), _lacking(prospect, joined=True)
    if without:
        return joined == 0, brings_layers(prospect), -joined
    before, after = prospect.without.many_streams, prospect.joined.many_streams
    return False, False, after / before if before > 0 else math.inf


def _lacking(prospect: Prospect, *, joined: bool) -> int:
    """The layers that nobody serves."""
    return sum(len(span) for span in (prospect.joined if joined else prospect.without).missing)
