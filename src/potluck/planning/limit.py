"""Finds what limits a swarm now, and what one more machine would change. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from potluck.planning.cost import Footprint
from potluck.planning.forecast import Forecast, forecast, quickest_route, sentences
from potluck.planning.machine import Placed

STREAMS = 8
"""The number of streams for which the gain is computed: a handful of people who ask at once."""


class Limit(Struct, frozen=True):
    """The limit of a swarm.

    slowest: the stage that takes the largest share of one stream's token. bottleneck: the machine that limits many
    streams.
    gain: what a second machine like the bottleneck there would add to STREAMS streams; 0.4 is 40 %.
    """

    slowest: Placed
    share: float
    bottleneck: Placed
    gain: float


def limit(footprint: Footprint, placed: Sequence[Placed]) -> Limit | None:
    """The limit of these machines; None if layers are missing."""
    told = forecast(footprint, placed)
    if told.bottleneck is None:
        return None
    route = quickest_route(footprint, placed)
    seconds = [one.machine.seconds(footprint, one.span) for one in route]
    slowest = max(range(len(route)), key=seconds.__getitem__)
    better = forecast(footprint, [*placed, told.bottleneck])
    gain = _tokens_per_s(better) / _tokens_per_s(told) - 1
    return Limit(route[slowest], seconds[slowest] / sum(seconds), told.bottleneck, gain)


def limit_sentence(footprint: Footprint, placed: Sequence[Placed]) -> str:
    """The limit as a sentence for people."""
    found = limit(footprint, placed)
    if found is None:
        [missing] = sentences(footprint, forecast(footprint, placed))
        return missing
    takes = "take" if len(found.slowest.span) > 1 else "takes"
    share = f"{_layers(found.slowest)} {takes} {100 * found.share:.0f} % of a token's time"
    if round(100 * found.gain) < 1:
        return f"{share}."
    elsewhere = found.bottleneck.machine != found.slowest.machine
    there = f" for {_layers(found.bottleneck, first=False)}" if elsewhere else ""
    shared = any(_overlap(one, found.bottleneck) for one in placed if one is not found.bottleneck)
    helper = "one more machine" if shared else "a second machine"
    return f"{share}; {helper}{there} would make {STREAMS} streams {100 * found.gain:.0f} % faster."


def _tokens_per_s(told: Forecast) -> float:
    """The rate of STREAMS streams: at most STREAMS times that of one, and at most what the machines carry."""
    return min(STREAMS * told.one_stream, told.many_streams)


def _overlap(one: Placed, other: Placed) -> bool:
    return one.span.first <= other.span.last and other.span.first <= one.span.last


def _layers(placed: Placed, first: bool = True) -> str:
    """The layers of a machine in words. first: they begin the sentence."""
    word = "Layers" if len(placed.span) > 1 else "Layer"
    return f"{word if first else word.lower()} {placed.span} on {placed.machine.name}"
