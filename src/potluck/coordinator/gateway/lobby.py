"""What the nodes of all models share: how they come in, their stays, and the frames that wait for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from potluck.coordinator.gateway.driver import Caught
from potluck.coordinator.gateway.entrance import Entrance
from potluck.coordinator.gateway.outboxes import Outboxes
from potluck.coordinator.gateway.reception import Reception
from potluck.coordinator.gateway.stays import Stays
from potluck.coordinator.gateway.tickets import Tickets
from potluck.coordinator.topic import Topic


@dataclass(frozen=True)
class Lobby:
    """The lobby of a coordinator. caught: tells all swarms of nodes that were caught in one of them. lent: tells of
    nodes that one model lets go to another.

    numbers: those of nodes and sessions, which are unique among all models.
    """

    entrance: Entrance
    stays: Stays = field(default_factory=Stays)
    outboxes: Outboxes = field(default_factory=Outboxes)
    tickets: Tickets = field(default_factory=Tickets)
    caught: Topic[Caught] = field(default_factory=Topic[Caught])
    lent: Topic[str] = field(default_factory=Topic[str])
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))


def new_lobby(reception: Reception) -> Lobby:
    return Lobby(Entrance(reception))
