"""Runs audits: gives the evidence to other nodes, and does what follows from their answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from potluck.coordinator.audits.audits import Action, Assignment, Audited, Audits, Forfeit, Quarantine, Settle, Suspect
from potluck.coordinator.audits.case import Holder
from potluck.coordinator.audits.lottery import MOST_KNOWN
from potluck.coordinator.members.ledger import Ledger
from potluck.coordinator.recent import Recent
from potluck.coordinator.relay.evidence import EVIDENCE_BYTES, Answer, Evidence, Question
from potluck.coordinator.relay.forward import Forward
from potluck.coordinator.relay.pending import PendingSteps
from potluck.coordinator.relay.relay import Relay
from potluck.coordinator.relay.trace import Hop
from potluck.coordinator.relay.witness import Witness
from potluck.coordinator.swarm.changes import Changes
from potluck.coordinator.swarm.node import Node, called
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.topic import Topic
from potluck.errors import PotluckError, Unavailable
from potluck.types import RowFormat, Stage
from potluck.wire.rows import join_rows

log = logging.getLogger(__name__)

_ANSWER_S = 60.0
"""Seconds in which an auditor must answer, so that it does not keep others from being audited."""

_ROOM_S = 30.0
"""Seconds that an auditor may be without room."""


class Bench(Protocol):
    """Opens sessions in which one node alone computes what another did."""

    def open(self, node: str, evidence: Evidence) -> int | None:
        """Open a session on this node. Returns its number; None if there is no room now."""

    def close(self, number: int) -> None:
        """Let the node forget the session."""


class Auditor:
    """Runs audits by the decisions of `audits`. evidence: each record that the witness has completed.

    ledger: keeps how audits end, and what nodes earned until that is settled.
    quarantine: receives a node, its key and the reason.
    """

    def __init__(
        self,
        swarm: Swarm,
        audits: Audits,
        ledger: Ledger,
        relay: Relay,
        witness: Witness,
        evidence: Topic[Evidence],
        pending: PendingSteps,
        bench: Bench,
        changes: Changes,
        quarantine: Callable[[str, bytes, str], None],
    ) -> None:
        self._nodes = swarm.nodes
        self._roster = swarm.roster
        self._audits = audits
        self._ledger = ledger
        self._relay = relay
        self._witness = witness
        self._pending = pending
        self._bench = bench
        self._changes = changes
        self._quarantine = quarantine
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers: set[int] = set()
        self._seen = Recent[str, Holder](lambda: Holder("", b""), MOST_KNOWN)
        """The nodes of watched stages, so that a node that lied and hung up is judged all the same."""
        evidence.listen(self._collected)

    def opened(self, session: int, route: Sequence[Stage], prompt: int) -> None:
        """Note that a new session has this route, for a prompt with this many tokens.

        The audits of its stages are drawn now, so that the nodes cannot know.
        """
        before = [0] * (len(route) - 1) + [max(0, prompt - 1)]
        self._witness.watch(session, route, self._drawn(route, range(len(route)), before))

    def mended(self, session: int, route: Sequence[Stage], places: Collection[int], held: int) -> None:
        """Note that the nodes at these places of the route stand in for others, and first compute the rows that those
        held.

        The coordinator does not see all of their answers while they do so, so they are judged by what comes afterwards.
        """
        drawn = self._drawn(route, places, [held] * len(route))
        self._witness.watch(session, route, drawn, held)

    def _drawn(self, route: Sequence[Stage], places: Collection[int], before: Sequence[int]) -> dict[int, int]:
        """How many rows to judge of which of these places. before: as in `Audits.opened`."""
        keys = [self._key(stage) if place in places else b"" for place, stage in enumerate(route)]
        most = max(1, EVIDENCE_BYTES // self._relay.row_bytes)
        return self._audits.opened(keys, before, most)

    def _key(self, stage: Stage) -> bytes:
        """The key of the stage's node; empty if it has just left, or if there is nobody else to audit it."""
        if stage.node not in self._nodes:
            return b""
        holder = self._seen[stage.node] = self._holder(stage.node)
        return holder.key if self._is_auditable(stage) else b""

    def stepped(self, key: bytes, hops: Iterable[Hop]) -> None:
        """Note that the node with this key has computed these steps."""
        rows = [hop.rows for hop in hops if hop.session not in self._numbers]
        if rows:
            self._act(self._audits.stepped(key, *rows))

    def is_credible(self, node: str) -> bool:
        """Whether this node's computation may be taken as it is, because it is trusted or was audited often enough."""
        known = self._nodes[node]
        return known.entry.trusted or self._audits.is_credible(known.key)

    @property
    def busy(self) -> bool:
        """Whether an audit runs."""
        return bool(self._tasks)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _is_auditable(self, stage: Stage) -> bool:
        """Whether there are holders besides those of the stage's own key."""
        own = self._nodes[stage.node].key
        return any(node.key != own for node in self._reaching(stage).values())

    def _holders(self, stage: Stage) -> list[Holder]:
        """The nodes that serve, begin where the stage begins, and reach its end, including the stage's own."""
        return [self._holder(name) for name in self._reaching(stage)]

    def _reaching(self, stage: Stage) -> dict[str, Node]:
        beginning = self._roster.beginning_at(stage.span.first).items()
        return {name: node for name, node in beginning if node.span.last >= stage.span.last}

    def _holder(self, name: str) -> Holder:
        node = self._nodes[name]
        return Holder(name, node.key, node.ready.twin, node.entry.trusted)

    def _collected(self, evidence: Evidence) -> None:
        audited = self._seen.get(evidence.stage.node)
        if audited is not None:
            self._audits.collected(evidence, audited)
            self._assign()

    def _assign(self) -> None:
        assignments, actions = self._audits.assign(lambda evidence: self._holders(evidence.stage))
        for assignment in assignments:
            task = asyncio.create_task(self._run(assignment))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._act(actions)

    async def _run(self, assignment: Assignment) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await self._answer(assignment.holder.node, assignment.case.evidence)
        except (PotluckError, TimeoutError) as error:
            log.debug("An audit could not run: %s", error)
            answer = None
        self._act(self._audits.answered(assignment, answer))
        self._assign()

    async def _answer(self, node: str, evidence: Evidence) -> Answer:
        """This node's output for the audited node's input. Raises Unavailable when there is none."""
        session = await self._open(node, evidence)
        self._numbers.add(session)
        try:
            rows: list[bytes | None] = []
            for number, question in enumerate(evidence.questions()):
                rows += await self._ask(session, number, question, evidence)
            return tuple(row if gave is not None else None for row, gave in zip(rows, evidence.gave, strict=True))
        finally:
            self._numbers.discard(session)
            self._bench.close(session)

    async def _open(self, node: str, evidence: Evidence) -> int:
        deadline = asyncio.get_running_loop().time() + _ROOM_S
        while (session := self._bench.open(node, evidence)) is None:
            if node not in self._nodes or not await self._changes.before(deadline):
                raise Unavailable(f"Node {node} has no room for an audit.")
        return session

    async def _ask(self, session: int, number: int, question: Question, evidence: Evidence) -> list[bytes | None]:
        form = RowFormat.F32 if evidence.stage.span.first == 0 else self._relay.rows
        count = len(question.rows)
        step = Forward(
            session=session,
            step=number,
            position=question.position,
            rows=count,
            top=question.top,
            asks=question.asks,
        )
        rows: list[bytes] = await self._pending.run(step, join_rows(question.rows, form))
        return [*[None] * (count - len(rows)), *rows]

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Audited(key, passed):
                    self._ledger.audited(key, passed=passed)
                    self._note_time(key)
                case Settle(key):
                    self._ledger.settle(key)
                case Forfeit(key):
                    self._ledger.forfeit(key)
                case Quarantine(node, key, reason):
                    self._quarantine(node, key, reason)
                case Suspect(nodes, reason):
                    log.warning("%s: %s.", ", ".join(called(self._nodes, node) for node in nodes), reason)

    def _note_time(self, key: bytes) -> None:
        """Note the time of an audit of the nodes with this key."""
        for node in self._nodes.values():
            if node.key == key:
                node.audited_at = int(time.time())
