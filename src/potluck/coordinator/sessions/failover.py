"""Failover: mends sessions whose nodes are lost, leave or are quarantined, by letting other nodes take over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import aclosing
from itertools import takewhile

from potluck.coordinator.audits.auditor import Auditor
from potluck.coordinator.relay.pending import PendingSteps
from potluck.coordinator.relay.relay import Relay
from potluck.coordinator.sessions.admission import Admission
from potluck.coordinator.sessions.chunks import in_order
from potluck.coordinator.sessions.handover import Handover
from potluck.coordinator.sessions.state import SessionState
from potluck.coordinator.sessions.turns import Turns
from potluck.coordinator.swarm.events import Action
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.swarm.tally import Remedy
from potluck.errors import RebuildFailed
from potluck.types import ANY_NUMBER, Span, Stage
from potluck.wire.codec import encode
from potluck.wire.messages import Close
from potluck.wire.rows import Ids, pack_ids

_MENDED_AT_ONCE = 2
"""The sessions of one lost node that are mended at once. If all were, all would be late."""


class Failover:
    """Mends sessions. auditor: says whose keys and values may move to another node, and is told who takes over.

    most_rows: positions that a step may carry. send: puts frames into outboxes. act: does what the swarm says.
    """

    def __init__(
        self,
        swarm: Swarm,
        admission: Admission,
        relay: Relay,
        pending: PendingSteps,
        handover: Handover,
        auditor: Auditor,
        most_rows: int,
        send: Callable[..., None],
        act: Callable[[Iterable[Action]], None],
    ) -> None:
        self._swarm = swarm
        self._kv_budget = swarm.kv_budget
        self._admission = admission
        self._relay = relay
        self._pending = pending
        self._handover = handover
        self._auditor = auditor
        self._most_rows = most_rows
        self._send = send
        self._act = act
        self._turns = Turns(_MENDED_AT_ONCE)

    def is_whole(self, session: SessionState) -> bool:
        """Whether all stages are there with everything that they should hold, and none is about to leave."""
        return (
            not session.lacking
            and self._relay.is_open(session.number)
            and self._kv_budget.due(session.number, session.route) is None
        )

    def is_lost(self, session: SessionState) -> bool:
        """Whether no step can run."""
        return not self._relay.is_open(session.number)

    async def mend(self, session: SessionState, tokens: Ids, avoid: Collection[str]) -> int | None:
        """Put other nodes in place of those that are lost or about to leave, and compute what they held.

        Nodes that leave give what they hold to a twin, if that is quicker. The sessions that are nearest to their end
        come first. tokens: what the session holds. avoid: nodes that are taken only if there is no other way.
        Returns how many of the tokens it then holds: all, or none if the journals do not reach that far or the model
        cannot forget; None if there are no such nodes now. Raises RouteLost when one more stage is lost meanwhile.
        """
        lost = self._kv_budget.due(session.number, session.route) or ""
        async with self._turns.turn(lost, rank=session.positions - len(tokens)):
            states = await self._fetch_states(session)
            if not self._replace(session, avoid):
                return None
            await self._bring_states(session, states, len(tokens))
            heirs = [place for place, stage in enumerate(session.route) if session.lacking.get(stage.node) == 0]
            self._auditor.mended(session.number, session.route, heirs, len(tokens))
            session.remedy = Remedy.REBUILT if session.lacking else Remedy.MOVED
            if await self._rebuild_all(session, tokens):
                return len(tokens)
            session.remedy = Remedy.REPLAYED
            session.lacking.clear()
            return 0

    async def _rebuild_all(self, session: SessionState, tokens: Ids) -> bool:
        """Let all stages compute what they lack. False if that is not possible.

        Where a model cannot surely forget, what the other stages hold of a step that was lost may stay.
        """
        if self._swarm.forgets < ANY_NUMBER:
            return False
        try:
            while session.lacking:
                await self._rebuild(session, tokens)
        except RebuildFailed:
            return False
        return True

    async def _fetch_states(self, session: SessionState) -> dict[tuple[Span, str], bytes]:
        """The keys and values of the stages that are about to leave, by their layers and twin marks.

        A stage has none here if computing them anew is quicker than sending them.
        """
        states = {}
        for stage in self._going(session):
            if stage.twin and stage.node not in session.lacking:
                most = self._kv_budget.worth_moving(stage.node, session.number)
                states[stage.span, stage.twin] = await self._handover.fetch(stage.node, session.number, most)
        return states

    def _going(self, session: SessionState) -> list[Stage]:
        """The stages that are about to leave and may hand over what they hold, if there are heirs."""
        number, route = session.number, session.route
        if self.is_lost(session) or not self._kv_budget.can_mend_without_parked(number, route, session.positions):
            return []
        return [stage for stage in self._kv_budget.going(number, route) if self._auditor.is_credible(stage.node)]

    def _replace(self, session: SessionState, avoid: Collection[str]) -> bool:
        """Put others in place of the nodes that are lost or about to leave. False if there are none now."""
        found = self._admission.mend(session.number, session.route, session.positions, avoid)
        if found is None:
            if self.is_lost(session):
                self._give_up(session)
            return False
        mended, evicted = found
        for number in evicted:
            self._send(*self._relay.close(number))
        self._send(*self._relay.reroute(session.number, mended.route))
        session.route = mended.route
        self._act(self._swarm.let_go())
        new = {session.route[place].node for first, goal in mended.runs for place in range(first, goal + 1)}
        kept = {stage.node for stage in session.route} - new
        lacking = {node: held for node, held in session.lacking.items() if node in kept}
        session.lacking = lacking | dict.fromkeys(new, 0)
        return True

    def _give_up(self, session: SessionState) -> None:
        """Let go of nodes that want to go, because the session waits for layers that nobody serves."""
        frame = encode(Close(session.number))
        self._send(*((node, frame) for node in self._kv_budget.give_up(session.number, session.route)))
        self._act(self._swarm.let_go())

    async def _bring_states(self, session: SessionState, states: dict[tuple[Span, str], bytes], length: int) -> None:
        """Give the states to nodes that took over exactly these layers and compute the same bits."""
        for stage in session.route:
            state = states.get((stage.span, stage.twin))
            if (
                state
                and stage.node in session.lacking
                and await self._handover.bring(stage.node, session.number, state) >= length
            ):
                del session.lacking[stage.node]

    async def _rebuild(self, session: SessionState, tokens: Ids) -> None:
        """Let the first run of stages that lack something compute it from what the stage before them has sent on."""
        route, lacking, limit = session.route, session.lacking, self._most_rows
        first = next(place for place, stage in enumerate(route) if stage.node in lacking)
        nodes = [stage.node for stage in takewhile(lambda stage: stage.node in lacking, route[first:])]
        goal, begin = first + len(nodes) - 1, min(lacking[node] for node in nodes)
        parts = [(start, tokens[start : start + limit]) for start in range(begin, len(tokens), limit)]
        steps = (
            self._pending.run(session.forward(start, len(part), keep=True), pack_ids(part), (first, goal))
            for start, part in parts
        )
        async with aclosing(in_order(steps, ahead=len(nodes) + 1)) as done:
            async for _ in done:
                for node in nodes:  # if another stage is lost now, this much need not be computed again
                    lacking[node] = begin + limit
                begin += limit
        for node in nodes:
            del lacking[node]
