"""Chooses the route of a session: the nodes that it runs through. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from potluck.planning.cost import EVEN
from potluck.types import Span, Stage

_STRANGER_S = 60.0
"""The seconds that a node costs for not being a twin of the lost one: more than any twin, less than no node at all."""


class Server(Struct, frozen=True, gc=False):
    """A node as routing sees it. It serves `span`, and computes other bits than nodes with another `twin` mark.

    token_s: expected seconds of one token through the whole span, for each session that runs there.
    hop_s: seconds of one relay to it and back. sessions: the number that run there now.
    sums: those of the model's footprint. A part of the span takes as long as its work is.
    gc=False: a thousand are made for each session, and none can be part of a cycle.
    """

    node: str
    span: Span
    token_s: float
    hop_s: float
    sessions: int
    twin: str = ""
    sums: Sequence[int] = EVEN

    def seconds(self, layers: int) -> float:
        """The expected seconds of one more session's token through the first so many layers of the span."""
        before = self.sums[self.span.first]
        share = (self.sums[self.span.first + layers] - before) / (self.sums[self.span.last + 1] - before)
        return self.hop_s + self.token_s * share * (1 + self.sessions)


class _Way(NamedTuple):
    """The quickest way to a boundary. Its last stage runs on `server`, from the boundary `begin` on."""

    seconds: float
    begin: int = 0
    server: Server | None = None


def choose_route(part: Span, servers: Iterable[Server], twins: Collection[str] = ()) -> tuple[Stage, ...] | None:
    """The stages with the least expected seconds per token that cover `part`, or None if there are none.

    A stage begins where its node's span begins, because an engine cannot start in the middle of its span, and may end
    before the span does. This is a shortest path over the boundaries between layers.
    twins: marks of nodes that are to be replaced. Nodes with such a mark are preferred, whatever they cost.
    """
    by_first: dict[int, list[Server]] = {}
    for server in servers:
        by_first.setdefault(server.span.first, []).append(server)
    goal = part.last + 1
    # Where nothing else begins, a stage need not end.
    ends = sorted({goal, *(first for first in by_first if part.first < first < goal)})
    best = {part.first: _Way(0.0)}
    for place, boundary in enumerate((part.first, *ends[:-1])):
        if boundary in best:
            seconds, later = best[boundary].seconds, ends[place:]
            for server in by_first.get(boundary, ()):
                strange = _STRANGER_S if twins and server.twin not in twins else 0.0
                for end in later:
                    if end > server.span.last + 1:
                        break
                    total = seconds + strange + server.seconds(end - boundary)
                    if end not in best or total < best[end].seconds:
                        best[end] = _Way(total, boundary, server)
    return _stages(best, part.first, goal) if goal in best else None


def _stages(best: Mapping[int, _Way], first: int, goal: int) -> tuple[Stage, ...]:
    """The stages of the quickest way to the goal, which begins at the boundary `first`."""
    stages: list[Stage] = []
    while goal > first:
        _, begin, server = best[goal]
        assert server is not None  # only the way to where the route begins has none
        stages.append(Stage(server.node, Span(begin, goal - 1), server.twin))
        goal = begin
    return tuple(reversed(stages))


def up_to(last: int, route: Iterable[Stage]) -> tuple[Stage, ...]:
    """The part of the route that ends after this layer."""
    stages = [stage for stage in route if stage.span.first <= last]
    return tuple(Stage(stage.node, Span(stage.span.first, min(stage.span.last, last)), stage.twin) for stage in stages)


def missing_layers(layers: int, spans: Iterable[Span]) -> list[int]:
    """The layers that no span covers. If there are none, `choose_route` finds a route."""
    covered = {layer for span in spans for layer in range(span.first, span.last + 1)}
    return [layer for layer in range(layers) if layer not in covered]
