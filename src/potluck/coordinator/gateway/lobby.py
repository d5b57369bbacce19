"""What the nodes of all models share: how they come in, their stays, and the frames that wait for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from potluck.coordinator.gateway.driver import Caught
from potluck.coordinator.gateway.entrance import Entrance
from potluck.coordinator.gateway.outboxes import Outboxes
from potluck.coordinator.gateway.reception import Reception
from potluck.coordinator.gateway.stays import Stays
from potluck.coordinator.gateway.tickets import Tickets
from potluck.coordinator.gateway.welcomes import alone
from potluck.coordinator.swarm.events import Joined
from potluck.coordinator.topic import Topic
from potluck.types import Coordinator


@dataclass(frozen=True)
class Lobby:
    """The lobby of a coordinator. caught: tells all swarms of nodes that were caught in one of them. lent: tells of
    nodes that one model lets go to another, or to another coordinator. fleet: the other coordinators where nodes may
    serve.

    idle: the nodes that wait without layers until somebody asks for a model.
    numbers: those of nodes and sessions, which are unique among all models.
    """

    entrance: Entrance
    fleet: Callable[[], Sequence[Coordinator]] = alone
    stays: Stays = field(default_factory=Stays)
    outboxes: Outboxes = field(default_factory=Outboxes)
    tickets: Tickets = field(default_factory=Tickets)
    caught: Topic[Caught] = field(default_factory=Topic[Caught])
    lent: Topic[str] = field(default_factory=Topic[str])
    idle: dict[str, Joined] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))


def new_lobby(reception: Reception, fleet: Callable[[], Sequence[Coordinator]] = alone) -> Lobby:
    return Lobby(Entrance(reception), fleet)
