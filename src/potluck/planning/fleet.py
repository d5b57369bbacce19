"""Decides which coordinator of a fleet serves a request, and which node goes from one to another. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from potluck.types import Span


class Load(NamedTuple):
    """How a model stands at a coordinator. covered: whether every layer is served.

    waiting, streams: requests that wait, and answers under way.
    """

    covered: bool
    waiting: int
    streams: int

    @property
    def requests(self) -> int:
        return self.waiting + self.streams


_MARGIN = 4
"""The requests more than twice as many as elsewhere from which on a request goes there. The nodes here may still hold
what a chat continues, so that a slight difference is not worth a hop.
"""


def better_places(here: Load | None, others: Sequence[Load]) -> list[int]:
    """The other coordinators that should rather serve a request, by their numbers, the best first. If it is empty, the
    request stays here.

    here: None if the model is not served here. A request is handed over if it cannot be answered here, or if there is
    much more to do here.
    """
    ranked = sorted(range(len(others)), key=lambda number: (not others[number].covered, others[number].requests))
    if here is None:
        return ranked
    covered = [number for number in ranked if others[number].covered]
    if not here.covered:
        return covered
    return [number for number in covered if 2 * others[number].requests + _MARGIN < here.requests]


class Holding(NamedTuple):
    """What a coordinator's nodes hold of a model. counts: how many ready nodes serve each layer.

    loading: whether nodes load more. name: of the coordinator; it only has to differ from others.
    """

    counts: Sequence[int]
    loading: bool
    name: bytes

    @property
    def missing(self) -> list[int]:
        return [layer for layer, count in enumerate(self.counts) if not count]

    @property
    def standing(self) -> tuple[int, int, bytes]:
        """Orders coordinators that lack layers: the one that stands highest gets the nodes of the others."""
        return sum(map(bool, self.counts)), sum(self.counts), self.name


class Gift(NamedTuple):
    """A node that should go to another coordinator, by their numbers."""

    node: str
    other: int


def gift(here: Holding, spans: Mapping[str, Span], others: Sequence[Holding]) -> Gift | None:
    """The node that should go to another coordinator which lacks layers of the same model; None if none should.

    spans: those of the nodes that may go. Where nodes load, nothing is decided until they serve.

    A swarm that is complete gives nodes all of whose layers others serve here, too, to one that they can complete. One
    that is not complete, and that no other can complete so, gives all of its nodes to the one that lacks least.
    """
    if here.loading:
        return None
    lacking = [number for number, other in enumerate(others) if other.missing and not other.loading]
    if not here.missing:
        return next((found for number in lacking if (found := _spared(here, spans, others[number], number))), None)
    if any(_can_complete(other, here) for other in others):
        return None
    return _given_up(here, spans, others)


def _can_complete(giver: Holding, taker: Holding) -> bool:
    """Whether the giver holds everything twice that the taker lacks."""
    return not giver.missing and all(giver.counts[layer] > 1 for layer in taker.missing)


def _spared(here: Holding, spans: Mapping[str, Span], other: Holding, number: int) -> Gift | None:
    if not _can_complete(here, other):
        return None
    missing = set(other.missing)
    spare = {
        node: len(missing.intersection(_layers(span)))
        for node, span in spans.items()
        if all(here.counts[layer] > 1 for layer in _layers(span))
    }
    best = max(sorted(spare), key=lambda node: spare[node], default=None)
    return Gift(best, number) if best is not None and spare[best] else None


def _given_up(here: Holding, spans: Mapping[str, Span], others: Sequence[Holding]) -> Gift | None:
    best = max(range(len(others)), key=lambda number: others[number].standing, default=None)
    if best is None or not spans or others[best].standing <= here.standing:
        return None
    return Gift(min(spans), best)


def _layers(span: Span) -> range:
    return range(span.first, span.last + 1)
