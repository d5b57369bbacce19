"""Which nodes a session runs through. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from potluck.planning.cost import stage_seconds
from potluck.types import Span, Speed, Stage


class Server(Struct, frozen=True):
    """A node as routing sees it: it serves `span`, at `speed`, and holds so many sessions now."""

    node: str
    span: Span
    speed: Speed
    sessions: int


def choose_route(layers: int, servers: Iterable[Server]) -> tuple[Stage, ...] | None:
    """The stages with the least expected seconds a token that cover all layers, or None when there are none.

    A stage begins where its node's span begins, because an engine cannot start in the middle of its span,
    and may end before the span does. Shortest path over the boundaries between layers.
    """
    best: dict[int, tuple[float, tuple[Stage, ...]]] = {0: (0.0, ())}
    by_first: dict[int, list[Server]] = {}
    for server in servers:
        by_first.setdefault(server.span.first, []).append(server)
    for boundary in range(layers):
        if boundary not in best:
            continue
        seconds, stages = best[boundary]
        for server in by_first.get(boundary, ()):
            for last in range(boundary, server.span.last + 1):
                part = Span(boundary, last)
                total = seconds + stage_seconds(server.speed, server.span, part, server.sessions)
                if last + 1 not in best or total < best[last + 1][0]:
                    best[last + 1] = (total, (*stages, Stage(server.node, part)))
    return best[layers][1] if layers in best else None


def missing_layers(layers: int, spans: Iterable[Span]) -> list[int]:
    """Layers that no span covers. Where there are none, `choose_route` finds a route."""
    covered = {layer for span in spans for layer in range(span.first, span.last + 1)}
    return [layer for layer in range(layers) if layer not in covered]
