"""Lends nodes from models that can spare them to models that lack layers, and lets others be called to them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from potluck.coordinator.gateway.acceptance import accepts, is_free
from potluck.coordinator.gateway.calling import Calling
from potluck.coordinator.gateway.gate import Gate
from potluck.coordinator.gateway.home import Home
from potluck.coordinator.recent import Recent
from potluck.coordinator.swarm.events import Joined, Lends
from potluck.errors import Refused
from potluck.planning.choice import brings_layers, is_completed, most_helped
from potluck.types import NodeState, Prospect

_LOOK_S = 4.0
_MOST_TRIED = 8
"""The nodes of a model that are considered, because each takes a few milliseconds in which nothing else runs."""
_LOOKS = 3
"""The times in a row that a loan must look right, so that a node that restarts finds its place again."""
_MOST_FAILED = 4096
_FAILED_S = 600.0
"""Seconds for which a node that failed to load another model is not lent to that one."""


class _Loan(NamedTuple):
    """A node that could go from one model to another, and what it would add there."""

    node: str
    home: Gate
    target: Gate
    prospect: Prospect


class Lender:
    """Looks after all models as long as there are nodes. homes: where each node serves, by its name. idle: the nodes
    that wait without layers. admit: admits one of these to a model. clock: seconds.

    Only nodes move whose owners chose neither a model nor layers, and only while others serve all of their layers. They
    move only if all that can be spared would complete the other model, and not where they failed to load.
    """

    def __init__(
        self,
        gates: Sequence[Gate],
        homes: dict[str, Home],
        idle: dict[str, Joined],
        admit: Callable[[str, Gate, Joined], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gates = gates
        self._homes = homes
        self._clock = clock
        self.calling = Calling(gates, homes, idle, admit, self._spare, self._may_go)
        for gate in gates:
            gate.demand.wanted.listen(partial(self._asked, gate))
        self._wish: tuple[str, str] | None = None
        """The node and the model of the loan that looked right last time."""
        self._looks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._failed: Recent[tuple[bytes, str], float] = Recent(lambda: -math.inf, _MOST_FAILED)
        """When the links of nodes ended while they loaded a model that was not theirs before: their keys and models."""

    def go_on(self) -> None:
        """Look at regular intervals from now on, if there are several models or one is asked for."""
        several = len(self._gates) > 1 and self._homes
        if self._timer is None and (several or self.calling.is_needed) and not self._stopped:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        self.calling.look(self._clock())
        self.consider()
        self.go_on()

    def _asked(self, target: Gate, _: None) -> None:
        """Note that a request wants this offered model, and call nodes now if it lacks layers."""
        target.look(self._clock())
        if target.lacks and target.waiting == 1:  # who came before has looked
            self.calling.look(self._clock())
        self.go_on()

    def consider(self) -> None:
        """Begin the loan that helps most, once it has looked right for a while."""
        loans = [] if self._is_under_way() else list(self._loans())
        loan = loans[most_helped([loan.prospect for loan in loans])] if loans else None
        wish = (loan.node, loan.target.name) if loan is not None else None
        self._looks = self._looks + 1 if wish is not None and wish == self._wish else 1
        self._wish = wish
        if loan is not None and self._looks >= _LOOKS:
            self._wish = None
            loan.home.driver.apply(Lends(loan.node))

    def _is_under_way(self) -> bool:
        """Whether a node moves, whose place is not known yet."""
        return any(node.state is NodeState.MOVING for gate in self._gates for node in gate.swarm.nodes.values())

    def _loans(self) -> Iterator[_Loan]:
        """All loans that would help to complete a model which lacks layers that nobody loads."""
        lacking = [gate for gate in self._gates if gate.lacks]
        spare = {gate: self._spare(gate) for gate in self._gates} if lacking else {}
        for target in lacking:
            helpers = [node for gate, nodes in spare.items() if gate is not target for node in nodes]
            for node in helpers:
                yield from self._loan(node, target, len(helpers))

    def _spare(self, gate: Gate) -> list[str]:
        """The free nodes that this model can spare, those with most memory first."""
        nodes = gate.swarm.nodes
        free = [node for node in gate.swarm.roster.spare if node in self._homes and is_free(self._homes[node].joined)]
        return sorted(free, key=lambda node: -nodes[node].memory)[:_MOST_TRIED]

    def _loan(self, node: str, target: Gate, helpers: int) -> Iterator[_Loan]:
        """The loan of this node, if it would help. helpers: the number of nodes that could go there."""
        home, joined, _ = self._homes[node]
        if home.engine is not target.engine or not accepts(joined, target) or not self._may_go(joined, target):
            return
        for _, prospect in prospects([target], self.calling.returning(joined, target)):
            if brings_layers(prospect) and is_completed(prospect, helpers):
                yield _Loan(node, home, target, prospect)

    def destination(self, node: str, home: Home) -> Gate | None:
        """The gate to which a node goes that its model has let go; None if no other model needs it any more."""
        if (called := self.calling.destination(node)) is not None:
            return called
        found = [
            loan
            for target in self._gates
            if target is not home.gate and target.lacks
            for loan in self._loan(node, target, _MOST_TRIED)
        ]
        return found[most_helped([loan.prospect for loan in found])].target if found else None

    def failed(self, home: Home) -> None:
        """Note that a node has gone while it loaded what it was lent for."""
        self._failed[home.joined.hello.key, home.gate.name] = self._clock()

    def _may_go(self, joined: Joined, target: Gate) -> bool:
        failed = self._failed.get((joined.hello.key, target.name))
        return failed is None or self._clock() - failed >= _FAILED_S


def prospects(gates: Sequence[Gate], joined: Joined) -> list[tuple[Gate, Prospect]]:
    """What the node would add to each of these models that it can join."""
    found = []
    for gate in gates:
        with suppress(Refused):
            found.append((gate, gate.prospect(joined)))
    return found
