"""Forecasts what one more machine would give a swarm. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from potluck.planning.cost import Footprint
from potluck.planning.forecast import forecast
from potluck.planning.machine import Placed
from potluck.types import Outlook, Prospect


def prospect(footprint: Footprint, placed: Sequence[Placed], newcomer: Placed) -> Prospect:
    """The swarm without the newcomer and with it, by the same forecast as for a plan."""
    return Prospect(outlook(footprint, placed), outlook(footprint, [*placed, newcomer]))


def outlook(footprint: Footprint, placed: Sequence[Placed]) -> Outlook:
    told = forecast(footprint, placed)
    return Outlook(tuple(told.missing), told.one_stream, told.many_streams)
