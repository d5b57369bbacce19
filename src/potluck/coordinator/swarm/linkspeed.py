"""The speed of a node's link, in two figures."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from potluck.planning.cost import HOP_S


class LinkSpeed(NamedTuple):
    """The speed of a link. round_trip_s: of an empty frame. bytes_per_s: to the node and back, counted both ways."""

    round_trip_s: float
    bytes_per_s: float


UNKNOWN = LinkSpeed(HOP_S, inf)
