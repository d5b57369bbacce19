"""Gives nodes to other coordinators of the fleet that lack layers, one node at a time in the whole fleet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from potluck.coordinator.fleet.fleet import Fleet
from potluck.coordinator.fleet.lease import Lease
from potluck.coordinator.fleet.records import Record
from potluck.coordinator.gateway.gate import Gate
from potluck.errors import BusAway
from potluck.planning.fleet import Holding, gift
from potluck.types import Coordinator, NodeState

log = logging.getLogger(__name__)

_LOOK_S = 4.0
"""Seconds between two looks. A node that was given shows in the other coordinator's record within them."""
_LOOKS = 3
"""The looks in a row for which a gift must seem right, so that a node that restarts finds its place again."""
_REST_S = 600.0


class _Wish(NamedTuple):
    """A node that should go to another coordinator. key: the node's."""

    node: str
    key: bytes
    target: Coordinator


class Giving:
    """Looks after the models of one coordinator. redirect: sends a node to another coordinator, if it can be spared."""

    def __init__(self, fleet: Fleet, gates: Sequence[Gate], redirect: Callable[[str, Coordinator], bool]) -> None:
        self._fleet = fleet
        self._gates = gates
        self._redirect = redirect
        self._lease = Lease(fleet.bus, "moves", fleet.own)
        self._wish: _Wish | None = None
        self._looks = 0
        self._given: dict[bytes, float] = {}
        """When nodes were sent away, by their keys. One that stayed, or came back, is left in peace for a while."""

    async def run(self) -> None:
        """Look at regular intervals until this is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self.consider()
            except BusAway as error:
                log.debug("No node is given away now: %s", error)
            except Exception:  # other nodes may still have to be given later
                log.exception("It could not be decided whether another coordinator needs a node.")

    async def consider(self) -> None:
        """Give the node away that should go, once that has seemed right for a while. Raises BusAway."""
        now = asyncio.get_running_loop().time()
        self._given = {key: since for key, since in self._given.items() if now - since < _REST_S}
        wish = next((found for gate in self._gates if (found := self._found(gate)) is not None), None)
        self._looks = self._looks + 1 if wish is not None and wish == self._wish else 1
        self._wish = wish
        if wish is not None and self._looks >= _LOOKS and await self._lease.hold():
            self._given[wish.key] = now
            self._redirect(wish.node, wish.target)

    def _found(self, gate: Gate) -> _Wish | None:
        """The node of this model that should go, if one should."""
        digest, nodes = gate.swarm.digest, gate.swarm.nodes.values()
        others = [(record, model) for record in self._fleet.others for model in record.models if model.digest == digest]
        unsettled = any(node.state in (NodeState.LOADING, NodeState.MOVING) for node in nodes)
        here = Holding(gate.swarm.served(), unsettled, self._fleet.own)
        ready = gate.swarm.roster.ready.items()
        movable = {name: node for name, node in ready if node.movable and node.key not in self._given}
        holdings = [Holding(model.counts, model.loading, record.key) for record, model in others]
        found = gift(here, {name: node.span for name, node in movable.items()}, holdings)
        if found is None:
            return None
        return _Wish(found.node, movable[found.node].key, coordinator_of(others[found.other][0]))


def coordinator_of(record: Record) -> Coordinator:
    """A coordinator as nodes know it."""
    return Coordinator(record.url, record.key)


def neighbours(fleet: Fleet) -> list[Coordinator]:
    """The other coordinators where nodes of this one may serve, those with the same models first."""
    own = {model.digest for model in fleet.own_models}
    ranked = sorted(fleet.known, key=lambda record: own.isdisjoint(model.digest for model in record.models))
    return [coordinator_of(record) for record in ranked]
