"""The sessions of the swarm: opens them in turn, mends them, and parks or closes them at their end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import numpy as np
from msgspec import structs

from potluck.coordinator.audits.auditor import Auditor
from potluck.coordinator.members.ledger import Ledger
from potluck.coordinator.relay.evidence import Evidence
from potluck.coordinator.relay.pending import PendingSteps, stopped
from potluck.coordinator.relay.relay import Relay
from potluck.coordinator.sessions.admission import Admission, Grant
from potluck.coordinator.sessions.claim import EVERYONE, Claim, Rank
from potluck.coordinator.sessions.fair_queue import Standing
from potluck.coordinator.sessions.handover import Handover
from potluck.coordinator.sessions.line import Line, Place
from potluck.coordinator.sessions.prefix_cache import Parked
from potluck.coordinator.sessions.session import Session
from potluck.coordinator.sessions.turns import Turns
from potluck.coordinator.swarm.events import Action
from potluck.coordinator.swarm.swarm import Swarm
from potluck.planning.routing import up_to
from potluck.types import Stage
from potluck.wire.codec import encode
from potluck.wire.messages import Close
from potluck.wire.rows import Ids

_MENDED_AT_ONCE = 2
"""Sessions of one lost node: all at once would all be late."""

_MOST_SHOWN = 100
"""Waiting requests that `/status` lists."""


class SessionManager:
    """numbers: of the sessions. context: the most positions of one. ledger: where accounts pay for what they asked.

    send: puts frames into outboxes. act: does what the swarm says. auditor: is told of each session that
    begins on some node, and whose keys and values may go into another.
    """

    def __init__(
        self,
        swarm: Swarm,
        relay: Relay,
        pending: PendingSteps,
        ledger: Ledger,
        context: int,
        numbers: Iterator[int],
        send: Callable[..., None],
        act: Callable[[Action], None],
        auditor: Auditor,
    ) -> None:
        self._swarm = swarm
        self._kv_budget = swarm.kv_budget
        self._relay = relay
        self._pending = pending
        self._ledger = ledger
        self._context = context
        self._numbers = numbers
        self._send = send
        self._act = act
        self._auditor = auditor
        self.handover = Handover(lambda node, frame: send((node, frame)))
        self._turns = Turns(_MENDED_AT_ONCE)
        self._changed = asyncio.Event()
        self._line = Line(relay.clock)
        self._places: dict[int, Place] = {}
        """Of the requests whose sessions are open."""
        self._admission = Admission(swarm)
        self._expiry: asyncio.TimerHandle | None = None
        self._stopping = False

    @property
    def waiting(self) -> int:
        """Requests in the line."""
        return len(self._line)

    @property
    def waiting_by_class(self) -> Counter[Rank]:
        return self._line.waiting()

    @property
    def queue(self) -> list[Standing]:
        """The first of them, in their order."""
        return self._line.standings(_MOST_SHOWN)

    async def changed_before(self, deadline: float) -> bool:
        """Wait until room or coverage may have grown; False when the loop's clock reaches `deadline` first."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def open(
        self,
        positions: int,
        tokens: Sequence[int] = (),
        avoid: Collection[str] = (),
        *,
        claim: Claim = EVERYONE,
        urgent: bool = False,
        last: int | None = None,
    ) -> Session:
        """A session with room for so many positions on every stage, as soon as it is its turn and there is room.

        tokens: what will be fed; a parked session that begins alike is taken over. Without them it is a new one.
        avoid: nodes that are taken only where there is no other way. urgent: an answer that was interrupted.
        last: the layer after which it ends, with hidden rows; it cannot be mended. None: it gives candidates.
        Raises Unavailable when layers are uncovered or no node could ever hold it, Busy when too many wait.
        """
        number, prompt = next(self._numbers), np.array(tokens, np.int32)
        if self._stopping:
            raise stopped()
        self._kv_budget.check(positions)  # whoever cannot be served at all shall not wait to learn it
        place = self._line.join(claim, positions * self._swarm.layers, urgent=urgent)
        try:
            while True:
                if self._line.is_first(place):
                    grant = self._grant(place, number, positions, prompt, avoid)
                    if grant is not None:
                        self._line.start(place)
                        self._places[grant.number] = place
                        if last is not None:
                            grant = replace(grant, route=up_to(last, grant.route))
                        return self._session(grant, positions, len(prompt), claim, inner=last is not None)
                await place.wait()
                if self._stopping:
                    raise stopped()
        finally:
            self._line.leave(place)

    def _grant(self, place: Place, number: int, positions: int, prompt: Ids, avoid: Collection[str]) -> Grant | None:
        """Only an interactive request may take all room: others leave as much as the longest one needs.

        Where there is never so much, the others are admitted while no interactive one runs (and none waits, because
        it would be first).
        """
        spare = self._context if self._line.yields(place) else 0
        if spare and not self._kv_budget.could_hold(positions + spare, sessions=2):
            if self._line.runs(Rank.INTERACTIVE):
                return None
            spare = 0
        return self._admission.grant(number, positions, prompt, avoid, spare, place.turn.claim.account)

    def _session(self, grant: Grant, positions: int, prompt: int, claim: Claim, inner: bool) -> Session:
        for number in grant.evicted:
            self._send(*self._relay.close(number))
        if self._relay.is_open(grant.number):  # it was parked
            self._swarm.tally.resumed += 1
        else:
            self._swarm.tally.opened += 1
            self._relay.open(grant.number, grant.route, 1, inner)
            self._auditor.opened(grant.number, grant.route, prompt)
        return Session(grant, positions, claim, self, self._pending)

    def is_open(self, session: Session) -> bool:
        """Whether steps of it can run."""
        return self._relay.is_open(session.number)

    def wants_mending(self, session: Session) -> bool:
        return not self.is_open(session) or self._kv_budget.wants_mending(session.number, session.route)

    def turn(self, session: Session, rank: int) -> AbstractAsyncContextManager[None]:
        """Wait until it is the session's turn to be mended; the lowest rank comes first."""
        return self._turns.turn(self._kv_budget.due(session.number, session.route) or "", rank)

    def going(self, session: Session) -> list[Stage]:
        """The stages that are about to leave and may hand over what they hold, if there are heirs."""
        route, positions = session.route, session.positions
        if not self.is_open(session) or not self._kv_budget.can_mend_without_parked(session.number, route, positions):
            return []
        return [
            stage for stage in self._kv_budget.going(session.number, route) if self._auditor.is_credible(stage.node)
        ]

    async def fetch_state(self, session: int, node: str) -> bytes:
        """What the node holds of the session, or nothing where computing it anew is quicker than sending it."""
        return await self.handover.fetch(node, session, self._kv_budget.worth_moving(node, session))

    async def bring_state(self, session: int, node: str, state: bytes) -> int:
        """How many positions of the session the node holds then."""
        return await self.handover.bring(node, session, state)

    def mend(self, session: Session, avoid: Collection[str]) -> tuple[tuple[int, int], ...] | None:
        """Other nodes in place of those of its route that are lost or about to leave; None when there are none now.

        Returns the runs (first, last) of its stages that hold nothing of the session yet.
        """
        found = self._admission.mend(session.number, session.route, session.positions, avoid)
        if found is None:
            if not self.is_open(session):
                self._give_up(session)
            return None
        mended, evicted = found
        for number in evicted:
            self._send(*self._relay.close(number))
        self._send(*self._relay.reroute(session.number, mended.route))
        session.route = mended.route
        for action in self._swarm.let_go():
            self._act(action)
        return mended.runs

    def note_heirs(self, session: Session, places: Collection[int], held: int) -> None:
        """The stages at these places are about to compute so many positions in place of those that did."""
        self._auditor.mended(session.number, session.route, places, held)

    def _give_up(self, session: Session) -> None:
        frame = encode(Close(session.number))
        self._send(*((node, frame) for node in self._kv_budget.give_up(session.number, session.route)))
        for action in self._swarm.let_go():
            self._act(action)

    def open_audit(self, node: str, evidence: Evidence) -> int | None:
        """The number of a session in which this node computes what another did; None where it has no room now."""
        number = next(self._numbers)
        evicted = self._admission.reserve_on(node, number, len(evidence.given))
        if evicted is None:
            return None
        for parked in evicted:
            self._send(*self._relay.close(parked))
        stage = structs.replace(evidence.stage, node=node)
        self._relay.open_audit(number, stage, evidence)
        return number

    def settle(self, number: int, tokens: int) -> None:
        """The answer that ran in this session has ended, if it has not before: its account pays for so many tokens."""
        place = self._places.pop(number, None)
        if place is not None:
            self._line.end(place, tokens * self._swarm.layers)
            self._ledger.spend(place.turn.claim.account, tokens * self._swarm.layers)

    def account_of(self, number: int) -> str | None:
        """Who pays for what the nodes compute in this session now; None for an audit's, or one that has ended."""
        place = self._places.get(number)
        return None if place is None else place.turn.claim.account

    def close(self, number: int) -> None:
        self._admission.drop(number)
        self._send(*self._relay.close(number))
        for action in self._swarm.release(number):
            self._act(action)

    def park(self, session: Session, tokens: Sequence[int], steps: int) -> None:
        """Keep what the nodes hold for a while; a session that lost its route, or is not worth it, is closed."""
        now, number = asyncio.get_running_loop().time(), session.number
        parked = Parked(number, session.route, np.array(tokens, np.int32), steps, now, session.claim.account)
        shared = session.claim.rank is Rank.ANONYMOUS  # by many who do not know each other
        if self._stopping or shared or not self._relay.is_open(number) or not self._admission.park(parked):
            self.close(number)
            return
        self._relay.witness.pause(number)
        if self._expiry is None:
            self._set_expiry()
        self.changed()

    def _set_expiry(self) -> None:
        """Parked sessions go in time, whether or not another request comes."""
        when = self._admission.next_expiry
        self._expiry = None if when is None else asyncio.get_running_loop().call_at(when, self._expire)

    def _expire(self) -> None:
        for number in self._admission.expired(asyncio.get_running_loop().time()):
            self.close(number)
        self._set_expiry()

    def drop_parked(self, number: int) -> bool:
        """A session has lost a stage: whether it was parked, and is forgotten now."""
        if not self._admission.drop(number):
            return False
        self._send(*self._relay.close(number))
        return True

    def changed(self) -> None:
        """Room or coverage may have grown: whoever waits tries again."""
        self._changed.set()
        self._changed = asyncio.Event()
        self._line.call()

    def stop(self) -> None:
        """No session opens any more."""
        self._stopping = True
        if self._expiry is not None:
            self._expiry.cancel()
        self.changed()
