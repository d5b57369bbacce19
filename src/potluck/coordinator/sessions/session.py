"""One sequence on a route of nodes: runs its steps, and has lost stages rebuilt on other nodes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Collection, Coroutine, Iterable, Sequence
from contextlib import aclosing
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from potluck.coordinator.relay.candidates import Candidates
from potluck.coordinator.relay.pending import PendingSteps
from potluck.coordinator.sessions.admission import Grant
from potluck.coordinator.sessions.claim import Claim
from potluck.coordinator.swarm.tally import Remedy
from potluck.errors import RebuildFailed
from potluck.types import MAX_STEP_ROWS, Span
from potluck.wire.messages import Step
from potluck.wire.rows import Ids, Rows

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from potluck.coordinator.sessions.manager import SessionManager

T = TypeVar("T")

_CHUNK_BYTES = 4 << 20
"""Of hidden rows in one frame: a long prompt travels in several, so that its stages work at the same time."""


class Session:
    """`step` runs positions through the route. Close or park it, or its room stays taken.

    held: how many tokens of the request that opened it the nodes hold already, so that they need not be fed.
    positions: the room that it has on every stage. claim: whose it is.
    """

    def __init__(
        self, grant: Grant, positions: int, claim: Claim, manager: SessionManager, pending: PendingSteps
    ) -> None:
        self.number = grant.number
        self.route = grant.route
        self.held = grant.held
        self.positions = positions
        self.claim = claim
        self._manager = manager
        self._pending = pending
        self._steps = grant.steps
        self.remedy = Remedy.REPLAYED
        """What its latest mending took."""
        self._lacking: dict[str, int] = {}
        """Nodes of the route that do not hold all of the session yet, and how many positions each does."""

    async def step(self, position: int, tokens: Ids, top: int, asks: tuple[tuple[int, ...], ...]) -> list[Candidates]:
        """Candidates for each of the last `len(asks)` of these tokens. Raises RouteLost when a stage is lost.

        position: where it is less than what the nodes hold, they forget the rest first.
        """
        return await self._pending.run(self._next_step(position, len(tokens), top, asks), tokens)

    async def hidden(self, position: int, tokens: Ids) -> Rows:
        """The hidden rows after the last layer of a session that was opened to end there. Raises RouteLost."""
        return await self._pending.hidden(self._next_step(position, len(tokens)), tokens)

    def _next_step(
        self, position: int, rows: int, top: int = 1, asks: tuple[tuple[int, ...], ...] = (), keep: bool = False
    ) -> Step:
        self._steps += 1
        return Step(self.number, 0, self._steps - 1, position, rows, 0, top, asks, 0, keep)

    @property
    def is_whole(self) -> bool:
        """Whether all stages are there with all that they should hold, and none is about to leave."""
        return not self._lacking and not self._manager.wants_mending(self)

    @property
    def is_lost(self) -> bool:
        """Whether no step can run."""
        return not self._manager.is_open(self)

    async def mend(self, tokens: Sequence[int], avoid: Collection[str] = ()) -> int | None:
        """Put other nodes in place of those that are lost or about to leave, and compute what they held.

        Those who leave give what they hold to a twin, where that is quicker. The sessions that are nearest to their
        end come first. tokens: what the session holds. avoid: nodes that are taken only where there is no other way.
        Returns how many of the tokens it holds then: all, or none where the journals do not reach.
        None: there is no such node now. Raises RouteLost when one more stage is lost meanwhile.
        """
        async with self._manager.turn(self, rank=self.positions - len(tokens)):
            return await self._mend(np.array(tokens, np.int32), avoid)

    async def _mend(self, tokens: Ids, avoid: Collection[str]) -> int | None:
        states = await self._fetch_states()
        runs = self._manager.mend(self, avoid)
        if runs is None:
            return None
        new = {self.route[index].node for first, goal in runs for index in range(first, goal + 1)}
        known = {stage.node for stage in self.route} - new
        self._lacking = {node: held for node, held in self._lacking.items() if node in known} | dict.fromkeys(new, 0)
        await self._bring_states(states, len(tokens))
        heirs = [place for place, stage in enumerate(self.route) if self._lacking.get(stage.node) == 0]
        self._manager.note_heirs(self, heirs, len(tokens))
        self.remedy = Remedy.REBUILT if self._lacking else Remedy.MOVED
        try:
            while self._lacking:
                await self._rebuild(tokens)
        except RebuildFailed:
            self.remedy = Remedy.REPLAYED
            self._lacking.clear()
            return 0
        return len(tokens)

    async def _fetch_states(self) -> dict[tuple[Span, str], bytes]:
        """What the stages hold that are about to leave, by their layers and twin marks."""
        states = {}
        for stage in self._manager.going(self):
            if stage.twin and stage.node not in self._lacking:
                states[stage.span, stage.twin] = await self._manager.fetch_state(self.number, stage.node)
        return states

    async def _bring_states(self, states: dict[tuple[Span, str], bytes], length: int) -> None:
        """To those that took over just these layers, and compute the same bits."""
        for stage in self.route:
            state = states.get((stage.span, stage.twin))
            if (
                state
                and stage.node in self._lacking
                and await self._manager.bring_state(self.number, stage.node, state) >= length
            ):
                del self._lacking[stage.node]

    async def _rebuild(self, tokens: Ids) -> None:
        """Let the first run of stages that lack something compute it from what the stage before them has sent on."""
        first = next(index for index, stage in enumerate(self.route) if stage.node in self._lacking)
        nodes = [stage.node for stage in takewhile(lambda stage: stage.node in self._lacking, self.route[first:])]
        begin, limit = min(self._lacking[node] for node in nodes), step_rows(self._pending.row_bytes)
        goal, starts = first + len(nodes) - 1, range(begin, len(tokens), limit)
        parts = [tokens[start : start + limit] for start in starts]
        steps = (
            self._pending.rebuild(self._next_step(start, len(part), keep=True), part, first, goal)
            for start, part in zip(starts, parts, strict=True)
        )
        async with aclosing(in_order(steps, ahead=len(nodes) + 1)) as done:
            async for _ in done:
                for node in nodes:  # if another stage is lost now, this much need not be computed again
                    self._lacking[node] = begin + limit
                begin += limit
        for node in nodes:
            del self._lacking[node]

    def park(self, tokens: Sequence[int], computed: int = 0) -> None:
        """The end of a session that may be of use to a later request: every node holds exactly these tokens.

        computed: of them, those that count as its request's work.
        """
        self._manager.settle(self.number, computed)
        self._manager.park(self, tokens, self._steps)

    def close(self, computed: int = 0) -> None:
        """The end of a session, in which so many tokens were computed that count as its request's work."""
        self._manager.settle(self.number, computed)
        self._manager.close(self.number)


async def in_order(calls: Iterable[Coroutine[Any, Any, T]], ahead: int) -> AsyncGenerator[T, None]:
    """The results in the order of the calls, of which `ahead` more than the awaited one run at the same time."""
    running: deque[asyncio.Task[T]] = deque()
    try:
        for call in calls:
            running.append(asyncio.create_task(call))
            if len(running) > ahead:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def step_rows(row_bytes: int) -> int:
    """Positions a step may carry, from the bytes of one hidden row."""
    return max(1, min(MAX_STEP_ROWS, _CHUNK_BYTES // row_bytes))
