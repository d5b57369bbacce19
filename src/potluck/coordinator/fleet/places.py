"""Says where in the fleet a request for a model is served best, and which models the fleet serves besides our own."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from potluck.coordinator.fleet.fleet import Fleet
from potluck.coordinator.fleet.records import ModelRecord, Record
from potluck.planning.fleet import Load, better_places


class Places:
    """The places of a fleet. clock: seconds, as the fleet's directory counts them.

    under_way: the requests that are answered here, by the model's first name. Not all of them have sessions yet.
    """

    def __init__(self, fleet: Fleet, clock: Callable[[], float] = time.monotonic) -> None:
        self.fleet = fleet
        self.clock = clock
        self.under_way: Counter[str] = Counter()

    def better(self, name: str) -> list[Record]:
        """The coordinators that should rather answer a request for the model with this name, the best first."""
        found = self.fleet.directory.answering(name, self.clock())
        own = next((model for model in self.fleet.own_models if name in model.names), None)
        ranked = better_places(None if own is None else self._here(own), [_load(model) for _, model in found])
        return [found[number][0] for number in ranked]

    def _here(self, own: ModelRecord) -> Load:
        """How a model stands here, where more is known than what the others were told last."""
        load, under_way = _load(own), self.under_way[own.names[0]]
        return load._replace(waiting=max(load.waiting, under_way - load.streams))

    def elsewhere(self) -> Iterator[tuple[ModelRecord, float]]:
        """The models that others serve, each once, with the Unix time since when."""
        seen = {name for model in self.fleet.own_models for name in model.names}
        for model, since in sorted(self._told(), key=lambda one: not one[0].covered):  # of several, one that is covered
            if seen.isdisjoint(model.names):
                seen.update(model.names)
                yield model, since

    def sent(self, target: Record, name: str) -> None:
        """Note that a request for this model goes there."""
        self.fleet.directory.sent(target.key, name)

    def is_gone(self, target: Record) -> bool:
        """Whether a coordinator is known to be gone. While NATS is away, nobody knows."""
        return self.fleet.bus.is_up and all(record.key != target.key for record in self.fleet.others)

    def covers(self, names: Sequence[str]) -> bool:
        """Whether another coordinator covers the model with one of these names."""
        return any(model.covered and not set(names).isdisjoint(model.names) for model, _ in self._told())

    def _told(self) -> Iterator[tuple[ModelRecord, float]]:
        """The models of all others, with the Unix time since when."""
        return ((model, record.started) for record in self.fleet.others for model in record.models)

    def shun(self, target: Record) -> None:
        """Note that a coordinator did not answer."""
        self.fleet.directory.shun(target.key, self.clock())


def _load(model: ModelRecord) -> Load:
    return Load(model.covered, model.waiting, model.streams)
