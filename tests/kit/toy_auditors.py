"""A toy swarm that audits its nodes, some of which lie."""

from __future__ import annotations

import random

import numpy as np

from kit.toy_swarm import (
    VOCABULARY,
    WIDTH,
    Node,
    make_service,
)
from kit.waiting import until
from potluck.coordinator.audits.audits import Audits
from potluck.coordinator.audits.verdict import Judge, Tolerance
from potluck.coordinator.compose import SwarmService
from potluck.coordinator.watching.status import NodeStatus, swarm_status
from potluck.types import NodeState, RowFormat
from potluck.wire.codec import decode_from_node, encode
from potluck.wire.messages import Hidden, Scores, Step

RATE = 0.2


def make_audited_service() -> SwarmService:
    """A coordinator of the toy model that audits one step in five."""
    judge = Judge(WIDTH, RowFormat.F32, Tolerance(0.01, 0.01))
    return make_service(Audits(RATE, judge.agree, random.Random(0).random))


class Liar(Node):
    """Answers another row than it should once it has been honest for so many steps."""

    honest = 0

    def _answer(self, step: Step, payload: memoryview) -> bytes:
        frame = super()._answer(step, payload)
        self.honest -= 1
        if self.honest >= 0:
            return frame
        message, told = decode_from_node(frame)
        if isinstance(message, Hidden):
            return encode(message, ((np.frombuffer(told, "<f4") + 1) % 20).astype("<f4").tobytes())
        if isinstance(message, Scores):
            return encode(message, _other_tokens(message.counts, bytes(told)))
        return frame


def _other_tokens(counts: tuple[int, ...], told: bytes) -> bytes:
    """The same log-probabilities, of the next tokens."""
    rows, start = [], 0
    for count in counts:
        ids = np.frombuffer(told, "<i4", count, start + 4)
        rows += [told[start : start + 4], ((ids + 1) % VOCABULARY).astype("<i4").tobytes()]
        rows.append(told[start + 4 + 4 * count : start + 4 + 8 * count])
        start += 4 + 8 * count
    return b"".join(rows)


async def join(service: SwarmService, *nodes: Node) -> None:
    await until(lambda: all(node.name and service.swarm.nodes[node.name].state is NodeState.READY for node in nodes))


async def settled(service: SwarmService) -> None:
    """No audit runs."""
    await until(lambda: not service.auditor.busy)


def states(service: SwarmService, *nodes: Node) -> list[NodeState]:
    return [service.swarm.nodes[node.name].state for node in nodes]


async def leave(*nodes: Node) -> None:
    for node in nodes:
        await node.leave()


def shown(service: SwarmService) -> list[NodeStatus]:
    return swarm_status(service.swarm, "toy", "d", 1000, service.audits, 0).nodes
