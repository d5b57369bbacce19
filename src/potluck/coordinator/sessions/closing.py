"""Ends sessions: parks those that a later request may take over, and closes the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from potluck.coordinator.relay.relay import Relay
from potluck.coordinator.relay.witness import Witness
from potluck.coordinator.sessions.admission import Admission
from potluck.coordinator.sessions.claim import Rank
from potluck.coordinator.sessions.payers import Payers
from potluck.coordinator.sessions.prefix_cache import Parked
from potluck.coordinator.sessions.state import SessionState
from potluck.coordinator.swarm.changes import Changes
from potluck.coordinator.swarm.events import Action
from potluck.coordinator.swarm.swarm import Swarm


class Closing:
    """Ends sessions. send: puts frames into outboxes. act: does what the swarm says."""

    def __init__(
        self,
        swarm: Swarm,
        relay: Relay,
        witness: Witness,
        admission: Admission,
        payers: Payers,
        changes: Changes,
        send: Callable[..., None],
        act: Callable[[Iterable[Action]], None],
    ) -> None:
        self._swarm = swarm
        self._relay = relay
        self._witness = witness
        self._admission = admission
        self._payers = payers
        self._changes = changes
        self._send = send
        self._act = act
        self._expiry: asyncio.TimerHandle | None = None
        self._stopping = False

    def close(self, number: int, computed: int = 0) -> None:
        """Let the nodes forget the session, and free its room. computed: tokens that its account pays for."""
        self._payers.settle(number, computed)
        self._release(number)

    def _release(self, number: int) -> None:
        self._admission.drop(number)
        self._send(*self._relay.close(number))
        self._act(self._swarm.release(number))

    def park(self, session: SessionState, tokens: Sequence[int], computed: int = 0, fed: int = 0) -> None:
        """Keep what the nodes hold for a while, up to `fed` positions. A session that lost its route, or is not worth
        it, is closed instead.
        """
        self._payers.settle(session.number, computed)
        if not self._is_parked(session, tokens, fed):
            self._release(session.number)
            return
        self._witness.pause(session.number)
        if self._expiry is None:
            self._set_expiry()
        self._changes.tell()

    def _is_parked(self, session: SessionState, tokens: Sequence[int], fed: int) -> bool:
        """Park the session if possible. Returns whether it is parked now."""
        shared = session.claim.rank is Rank.ANONYMOUS  # by many who do not know each other
        if self._stopping or shared or not self._relay.is_open(session.number):
            return False
        now, ids = asyncio.get_running_loop().time(), np.array(tokens, np.int32)
        return self._admission.park(
            Parked(session.number, session.route, ids, session.steps, now, session.claim.account, session.uses, fed)
        )

    def _set_expiry(self) -> None:
        """Set the timer for parked sessions, which expire whether or not another request comes."""
        when = self._admission.next_expiry
        self._expiry = None if when is None else asyncio.get_running_loop().call_at(when, self._expire)

    def _expire(self) -> None:
        for number in self._admission.expired(asyncio.get_running_loop().time()):
            self._release(number)
        self._set_expiry()

    def stop(self) -> None:
        """Park no more sessions."""
        self._stopping = True
        if self._expiry is not None:
            self._expiry.cancel()
