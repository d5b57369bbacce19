"""Whether a model is wanted now, and whether its nodes may go. Without clock and I/O."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

from potluck.coordinator.topic import Topic


class ModelState(StrEnum):
    """The state of a model: all of its layers are covered, nodes load what is lacking, nobody does, or it is offered
    and nobody has asked for it.
    """

    READY = "ready"
    LOADING = "loading"
    INCOMPLETE = "incomplete"
    OFFERED = "offered"


class Times(NamedTuple):
    """The times of an offered model, in seconds. idle_s: how long it keeps its nodes after its last request.

    stay_s: how long it keeps them at least once it is covered, because loading takes long, too.
    patience_s: how long a request waits for its layers.
    """

    idle_s: float = 300.0
    stay_s: float = 120.0
    patience_s: float = 600.0


USUAL = Times()


class Demand:
    """The demand for one model. always: whether it is served at all times, or else only offered.

    fault: the reason why no nodes can load what it lacks, in a sentence; empty if they can. asked: whether anybody has
    ever wanted it. times: those of an offered model; None stands for the usual ones.
    """

    def __init__(self, *, always: bool = True, times: Times | None = None) -> None:
        self.always = always
        self.wanted = Topic[None]()
        """Tells that a request wants the model, if it is only offered."""
        self.asked = always
        self.fault = ""
        self.times = times if times is not None else USUAL
        self.since = math.inf
        """The time since which requests have waited for layers; infinite if none does."""
        self._busy = False
        self._used = -math.inf
        self._covered: float | None = None
        """The time since which all layers are covered."""

    def look(self, now: float, *, busy: bool, covered: bool) -> None:
        """Note what is to be seen now. busy: whether requests run, or wait for layers that can come."""
        self._busy = busy
        if busy:
            self._used = now
        self.since = min(self.since, now) if busy and not covered else math.inf
        if not covered:
            self._covered = None
        elif self._covered is None:
            self._covered = now

    def may_go(self, now: float) -> bool:
        """Whether other models may have its nodes, though that uncovers it."""
        stayed = self._covered is None or now - self._covered >= self.times.stay_s
        return not (self.always or self._busy) and stayed and now - self._used >= self.times.idle_s

    def state(self, *, missing: bool, loading: bool, waiting: bool) -> ModelState:
        """The state of the model. missing: whether layers lack. loading, waiting: whether nodes load, or requests
        wait.
        """
        if not missing:
            return ModelState.READY
        if loading:
            return ModelState.LOADING
        return ModelState.INCOMPLETE if self.always or waiting else ModelState.OFFERED
