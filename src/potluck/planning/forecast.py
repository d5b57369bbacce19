"""Forecasts what a swarm gives before it has computed anything. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from msgspec import Struct

from potluck.planning.cost import Footprint, in_mib
from potluck.planning.machine import Placed
from potluck.planning.options import Options
from potluck.planning.placement import layer_rates
from potluck.types import Span, spans_of


class Forecast(Struct, frozen=True):
    """The forecast for a swarm.

    one_stream, many_streams: tokens/s, 0 if layers are missing. Many streams keep all machines busy.
    bottleneck: the slowest machine of the layer that limits many streams; None if layers are missing.
    missing: the layers that nobody serves.
    """

    one_stream: float
    many_streams: float
    bottleneck: Placed | None
    missing: list[Span]


def forecast(footprint: Footprint, placed: Sequence[Placed]) -> Forecast:
    """The forecast for machines that do nothing else."""
    rates = layer_rates(footprint, placed)
    if missing := spans_of([layer for layer, rate in enumerate(rates) if rate == 0]):
        return Forecast(0.0, 0.0, None, missing)
    slowest = rates.index(min(rates))
    servers = [one for one in placed if slowest in one.span]
    bottleneck = min(servers, key=lambda one: one.machine.rate(footprint, one.span))
    token_s = sum(one.machine.seconds(footprint, one.span) for one in quickest_route(footprint, placed))
    return Forecast(1 / token_s, min(rates), bottleneck, [])


def sentences(footprint: Footprint, told: Forecast) -> list[str]:
    """The forecast as sentences for people."""
    if told.bottleneck is None:
        spans = ", ".join(map(str, told.missing))
        needed, least = in_mib(sum(map(footprint.of, told.missing))), in_mib(_least(footprint, told.missing))
        needs = f"the swarm needs {needed:,} MiB more memory, at least {least:,} of them in one machine"
        return [f"No machine can hold layers {spans}: {needs}."]
    return [
        f"One stream runs at {told.one_stream:.1f} tokens/s.",
        f"Many streams together run at {told.many_streams:.1f} tokens/s.",
        f"The bottleneck is machine {told.bottleneck.machine.name}, with layers {told.bottleneck.span}.",
    ]


def _least(footprint: Footprint, missing: Sequence[Span]) -> int:
    """The memory that the smallest span with one of the missing layers needs."""
    options = Options(footprint)
    layers = [layer for span in missing for layer in range(span.first, span.last + 1)]
    return int(options.memory[options.covers[:, layers].any(axis=1)].min())


def forecast_json(footprint: Footprint, placed: Sequence[Placed], told: Forecast) -> dict[str, object]:
    """The forecast as JSON for programs. memory, gpu_memory: the bytes that a span takes.

    Machines that hold nothing are left out.
    """
    return {
        "one_stream": told.one_stream,
        "many_streams": told.many_streams,
        "bottleneck": told.bottleneck and told.bottleneck.machine.name,
        "missing": [str(span) for span in told.missing],
        "machines": [
            {
                "name": one.machine.name,
                "span": str(one.span),
                "memory": footprint.beside(one.machine.card, one.span),
                "gpu_memory": footprint.on_card(one.machine.card, one.span),
                "tokens_per_s": one.machine.rate(footprint, one.span),
            }
            for one in placed
        ],
    }


def quickest_route(footprint: Footprint, placed: Sequence[Placed]) -> list[Placed]:
    """The stages of one stream's fastest token. All layers are covered.

    A stage begins where its machine's span begins, and may end before the span does.
    """
    layers = len(footprint.layers)
    best = [0.0] + [inf] * layers  # to have run all layers before this one
    routes: list[list[Placed]] = [[] for _ in best]
    for one in sorted(placed, key=lambda one: one.span.first):
        first = one.span.first
        for last in range(first, one.span.last + 1):
            stage = Span(first, last)
            seconds = best[first] + one.machine.seconds(footprint, stage)
            if seconds < best[last + 1]:
                best[last + 1], routes[last + 1] = seconds, [*routes[first], Placed(one.machine, stage)]
    return routes[layers]
