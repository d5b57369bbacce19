"""One sequence on a route of nodes, which runs its steps, is mended, and ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from potluck.coordinator.relay.candidates import Candidates
from potluck.coordinator.relay.pending import PendingSteps
from potluck.coordinator.sessions.closing import Closing
from potluck.coordinator.sessions.failover import Failover
from potluck.coordinator.sessions.state import SessionState
from potluck.wire.rows import Ids, Rows, pack_ids


@dataclass(slots=True, kw_only=True, eq=False)
class Session(SessionState):
    """An open session. `step` runs positions through the route. Close or park it, or its room stays taken."""

    pending: PendingSteps
    failover: Failover
    closing: Closing

    async def step(
        self, position: int, tokens: Ids, top: int, asks: tuple[tuple[int, ...], ...], *, guessed: bool = False
    ) -> list[Candidates]:
        """Candidates for each of the last `len(asks)` of these tokens. Raises RouteLost when a stage is lost.

        position: if it is less than what the nodes hold, they forget the rest first. Steps from there on that are under
        way are void. guessed: the tokens may be others.
        """
        forward = self.forward(position, len(tokens), top, asks, guessed=guessed)
        return await self.pending.run(forward, pack_ids(tokens))

    @property
    def compute_s(self) -> float:
        """The seconds that the slowest stage of its route computes for one row; 0 before the first."""
        return self.pending.compute_s(self.number)

    def void(self, position: int) -> None:
        """Forget the steps under way that begin at this position or after it, because other tokens came."""
        self.pending.void(self.number, position)

    async def hidden(self, position: int, tokens: Ids) -> Rows:
        """The hidden rows after the last layer of a session that was opened to end there. Raises RouteLost."""
        return await self.pending.hidden(self.forward(position, len(tokens)), pack_ids(tokens))

    @property
    def is_whole(self) -> bool:
        """Whether all stages are there with everything that they should hold, and none is about to leave."""
        return self.failover.is_whole(self)

    @property
    def is_lost(self) -> bool:
        """Whether no step can run."""
        return self.failover.is_lost(self)

    async def mend(self, tokens: Sequence[int], avoid: Collection[str] = ()) -> int | None:
        """Put other nodes in place of those that are lost or about to leave, as `Failover.mend` does."""
        return await self.failover.mend(self, np.array(tokens, np.int32), avoid)

    def park(self, tokens: Sequence[int], computed: int = 0, fed: int = 0) -> None:
        """End a session that may be of use to a later request. Every node holds these tokens.

        computed: those of them that count as its request's work.
        fed: the most positions that a node may hold. What is beyond the tokens it forgets with the next step.
        """
        self.closing.park(self, tokens, computed, fed)

    def close(self, computed: int = 0) -> None:
        """End a session. computed: the tokens that count as its request's work."""
        self.closing.close(self.number, computed)
