"""Decides which session a request gets: a parked one that holds its beginning, or a new one. Without clock and I/O."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from potluck.coordinator.sessions.prefix_cache import KEEP_S, Match, Parked, PrefixCache
from potluck.coordinator.swarm.kv_budget import Mended
from potluck.coordinator.swarm.swarm import Swarm
from potluck.types import Stage
from potluck.wire.rows import Ids


@dataclass(frozen=True, slots=True)
class Grant:
    """A session with room on every stage. held: how many of the request's tokens the nodes already hold.

    fed: the most positions that a node may hold until the first step.
    steps: the number of its next step. uses: the requests that it has served, with this one.
    evicted: parked sessions that had to give way, for the nodes to forget.
    """

    number: int
    route: tuple[Stage, ...]
    held: int = 0
    steps: int = 0
    uses: int = 1
    evicted: tuple[int, ...] = ()
    fed: int = 0


class Admission:
    """Owns the parked sessions. They give way, those of the least worth first, but only if that makes room."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._kv_budget = swarm.kv_budget
        self._prefix_cache = PrefixCache(forgets=swarm.forgets)

    def grant(
        self, number: int, positions: int, tokens: Ids, avoid: Collection[str], spare: int = 0, account: str = ""
    ) -> Grant | None:
        """A session for a request that begins with these tokens, or None when all room is taken now.

        number: of the session, if it is a new one. spare: positions of one more session for which every stage must have
        room beside it. account: whose session it is. Raises Unavailable as `KvBudget.reserve` does.
        """
        match = self._prefix_cache.best(tokens, avoid, account)
        taken_over = self._take_over(match, positions, spare) if match is not None else None
        return taken_over or self._reserve(number, positions, avoid, spare)

    def _take_over(self, match: Match, positions: int, spare: int) -> Grant | None:
        session = match.session
        # What the nodes hold beyond the prefix goes with the first step only.
        positions = max(positions, session.positions)
        if not self._kv_budget.can_resume(session.number, positions, evicting=True, spare=spare):
            return None
        self._prefix_cache.drop(session.number)
        evicted, nodes = [], {stage.node for stage in session.route}
        while not self._kv_budget.resume(session.number, positions):
            evicted.append(self._evict(nodes))
        return Grant(
            session.number,
            session.route,
            match.held,
            session.steps,
            session.uses + 1,
            tuple(evicted),
            session.positions,
        )

    def _reserve(self, number: int, positions: int, avoid: Collection[str], spare: int) -> Grant | None:
        route = self._kv_budget.reserve(number, positions, avoid, spare)
        if route is None and not self._kv_budget.has_route_without_parked(number, positions, spare):
            return None
        evicted = []
        while route is None:
            evicted.append(self._evict())
            route = self._kv_budget.reserve(number, positions, avoid, spare)
        return Grant(number, route, evicted=tuple(evicted))

    def _evict(self, nodes: Collection[str] | None = None) -> int:
        session = self._prefix_cache.evict(nodes)
        assert session is not None  # the swarm has said that without them there is room
        self._swarm.release(session.number)
        return session.number

    def reserve_on(self, node: str, number: int, positions: int) -> tuple[int, ...] | None:
        """Reserve room for a session on this node alone. Returns the sessions that had to give way; None if there is no
        room.
        """
        evicted = []
        while not self._kv_budget.reserve_on(node, number, positions):
            if not self._kv_budget.has_room_without_parked(node, number, positions):
                return None
            evicted.append(self._evict({node}))
        return tuple(evicted)

    def mend(
        self, number: int, route: tuple[Stage, ...], positions: int, avoid: Collection[str]
    ) -> tuple[Mended, tuple[int, ...]] | None:
        """Put other nodes in place of a session's lost stages, as `KvBudget.mend` does, but let parked sessions give
        way.

        Returns the new route and the sessions that had to give way; None if there are no such nodes.
        """
        evicted = []
        while (mended := self._kv_budget.mend(number, route, positions, avoid)) is None:
            if not self._prefix_cache or not self._kv_budget.can_mend_without_parked(number, route, positions):
                return None
            evicted.append(self._evict())
        return mended, tuple(evicted)

    def park(self, session: Parked) -> bool:
        """Keep a session whose answer has ended. False for one that is not worth it."""
        if not self._prefix_cache.park(session):
            return False
        self._kv_budget.park(session.number, session.positions)
        return True

    def drop(self, number: int) -> bool:
        """Forget that the session is parked; whoever drops it also releases it. Returns whether it was parked."""
        return self._prefix_cache.drop(number)

    def is_parked(self, number: int) -> bool:
        return number in self._prefix_cache

    def expired(self, now: float) -> list[int]:
        """The sessions that have been parked for long enough."""
        return [session.number for session in self._prefix_cache.expired(now)]

    @property
    def next_expiry(self) -> float | None:
        """The time when the oldest parked session has been parked for long enough."""
        oldest = self._prefix_cache.oldest
        return None if oldest is None else oldest.since + KEEP_S
