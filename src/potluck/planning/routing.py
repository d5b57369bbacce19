"""Chooses the route of a session: the nodes that it runs through. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from msgspec import Struct

from potluck.types import Span, Stage

_STRANGER_S = 60.0
"""The seconds that a node costs for not being a twin of the lost one: more than any twin, less than no node at all."""


class Server(Struct, frozen=True):
    """A node as routing sees it. It serves `span`, and computes other bits than nodes with another `twin` mark.

    token_s: expected seconds of one token through the whole span, for each session that runs there.
    hop_s: seconds of one relay to it and back. sessions: the number that run there now.
    """

    node: str
    span: Span
    token_s: float
    hop_s: float
    sessions: int
    twin: str = ""

    def seconds(self, part: Span) -> float:
        """The expected seconds of one more session's token through a part of the span."""
        return self.hop_s + self.token_s * len(part) / len(self.span) * (1 + self.sessions)


def choose_route(part: Span, servers: Iterable[Server], twins: Collection[str] = ()) -> tuple[Stage, ...] | None:
    """The stages with the least expected seconds per token that cover `part`, or None if there are none.

    A stage begins where its node's span begins, because an engine cannot start in the middle of its span, and may end
    before the span does. This is a shortest path over the boundaries between layers.
    twins: marks of nodes that are to be replaced. Nodes with such a mark are preferred, whatever they cost.
    """
    best: dict[int, tuple[float, tuple[Stage, ...]]] = {part.first: (0.0, ())}
    by_first: dict[int, list[Server]] = {}
    for server in servers:
        by_first.setdefault(server.span.first, []).append(server)
    for boundary in range(part.first, part.last + 1):
        if boundary not in best:
            continue
        seconds, stages = best[boundary]
        for server in by_first.get(boundary, ()):
            strange = _STRANGER_S if twins and server.twin not in twins else 0.0
            for last in range(boundary, min(server.span.last, part.last) + 1):
                run = Span(boundary, last)
                total = seconds + strange + server.seconds(run)
                if last + 1 not in best or total < best[last + 1][0]:
                    best[last + 1] = (total, (*stages, Stage(server.node, run, server.twin)))
    return best[part.last + 1][1] if part.last + 1 in best else None


def up_to(last: int, route: Iterable[Stage]) -> tuple[Stage, ...]:
    """The part of the route that ends after this layer."""
    stages = [stage for stage in route if stage.span.first <= last]
    return tuple(Stage(stage.node, Span(stage.span.first, min(stage.span.last, last)), stage.twin) for stage in stages)


def missing_layers(layers: int, spans: Iterable[Span]) -> list[int]:
    """The layers that no span covers. If there are none, `choose_route` finds a route."""
    covered = {layer for span in spans for layer in range(span.first, span.last + 1)}
    return [layer for layer in range(layers) if layer not in covered]
