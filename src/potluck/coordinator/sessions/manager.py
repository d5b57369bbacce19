"""Opens the swarm's sessions, each when it is its request's turn and there is room."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np

from potluck.coordinator.audits.auditor import Auditor
from potluck.coordinator.relay.pending import PendingSteps, stopped
from potluck.coordinator.relay.relay import Relay
from potluck.coordinator.sessions.admission import Admission, Grant
from potluck.coordinator.sessions.arrival import Arrival
from potluck.coordinator.sessions.claim import EVERYONE, Claim, Rank
from potluck.coordinator.sessions.closing import Closing
from potluck.coordinator.sessions.demand import Demand
from potluck.coordinator.sessions.failover import Failover
from potluck.coordinator.sessions.line import Line, Place
from potluck.coordinator.sessions.payers import Payers
from potluck.coordinator.sessions.session import Session
from potluck.coordinator.swarm.swarm import Swarm
from potluck.planning.routing import up_to
from potluck.wire.rows import Ids


class SessionManager:
    """Opens sessions. line: the requests that wait. demand: that for the model. auditor: is told of each session that
    begins.

    context: the most positions of a session. numbers: those of the sessions. send: puts frames into outboxes.
    """

    def __init__(
        self,
        swarm: Swarm,
        line: Line,
        demand: Demand,
        admission: Admission,
        payers: Payers,
        relay: Relay,
        pending: PendingSteps,
        auditor: Auditor,
        failover: Failover,
        closing: Closing,
        context: int,
        numbers: Iterator[int],
        send: Callable[..., None],
    ) -> None:
        self._swarm = swarm
        self._kv_budget = swarm.kv_budget
        self._line = line
        self._demand = demand
        self._admission = admission
        self._payers = payers
        self._relay = relay
        self._pending = pending
        self._auditor = auditor
        self._failover = failover
        self._closing = closing
        self._context = context
        self._numbers = numbers
        self._send = send
        self._stopping = False

    async def open(
        self,
        positions: int,
        tokens: Sequence[int] = (),
        avoid: Collection[str] = (),
        *,
        claim: Claim = EVERYONE,
        urgent: bool = False,
        last: int | None = None,
        on_loading: Callable[[float], None] = lambda _: None,
    ) -> Session:
        """A session with room for this many positions on every stage, as soon as it is its turn and there is room.

        tokens: what will be fed. A parked session that begins alike is taken over. Without tokens, it is a new one.
        avoid: nodes that are taken only if there is no other way. urgent: for an answer that was interrupted.
        last: the layer after which it ends, with hidden rows; it then cannot be mended. None: it gives candidates.
        on_loading: is told the share of an offered model's layers that are loaded while the request waits for them.
        Raises Unavailable when layers are uncovered, and will not be covered if the model is only offered, or when no
        node could ever hold it; Busy when too many wait.
        """
        number, prompt = next(self._numbers), np.array(tokens, np.int32)
        if self._stopping:
            raise stopped()
        if self._demand.always:
            self._kv_budget.check(positions)  # whoever cannot be served at all shall not wait to learn it
        place = self._line.join(claim, positions * self._swarm.layers, urgent=urgent)
        arrival = Arrival(self._swarm, self._demand, self._relay.clock, on_loading)
        try:
            if not self._demand.always:
                self._demand.wanted.tell(None)
            while True:
                if not arrival.is_awaited() and self._line.is_first(place):
                    grant = self._grant(place, number, positions, prompt, avoid)
                    if grant is not None:
                        self._payers.begin(grant.number, place)
                        if last is not None:
                            grant = replace(grant, route=up_to(last, grant.route))
                        self._begin(grant, len(prompt), inner=last is not None)
                        return self._session(grant, positions, claim)
                await place.wait()
                if self._stopping:
                    raise stopped()
        finally:
            self._line.leave(place)

    def _grant(self, place: Place, number: int, positions: int, prompt: Ids, avoid: Collection[str]) -> Grant | None:
        """A session for the request, or None when there is no room. Requests that are not interactive leave spare room.

        The spare room is what the longest session needs. If there is never that much, such requests are admitted while
        no interactive one runs (and none waits, because it would be first).
        """
        spare = self._context if self._line.yields(place) else 0
        if spare and not self._kv_budget.could_hold(positions + spare, sessions=2):
            if self._line.runs(Rank.INTERACTIVE):
                return None
            spare = 0
        return self._admission.grant(number, positions, prompt, avoid, spare, place.turn.claim.account)

    def _begin(self, grant: Grant, prompt: int, inner: bool) -> None:
        for number in grant.evicted:
            self._send(*self._relay.close(number))
        if grant.held:  # it was parked
            self._swarm.tally.resumed += 1
        else:
            self._swarm.tally.opened += 1
            self._relay.open(grant.number, grant.route, 1, inner)
            self._auditor.opened(grant.number, grant.route, prompt)

    def _session(self, grant: Grant, positions: int, claim: Claim) -> Session:
        return Session(
            number=grant.number,
            route=grant.route,
            held=grant.held,
            fed=grant.fed,
            positions=positions,
            claim=claim,
            steps=grant.steps,
            uses=grant.uses,
            pending=self._pending,
            failover=self._failover,
            closing=self._closing,
        )

    def stop(self) -> None:
        """Open no more sessions."""
        self._stopping = True
