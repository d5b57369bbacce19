"""A node that the test plays by hand, frame by frame, at a gateway of a coordinator in this process."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from kit.gateways import gateway_of
from kit.newcomer import NODE, introduce, reception
from potluck.coordinator.audits.audits import Audits
from potluck.coordinator.compose import SwarmService, compose_swarm
from potluck.coordinator.gateway.guessing import Guessers
from potluck.coordinator.gateway.lobby import new_lobby
from potluck.coordinator.gateway.terms import Terms
from potluck.coordinator.sessions.session import Session
from potluck.coordinator.swarm.swarm import Swarm
from potluck.errors import LinkClosed
from potluck.local import HANG_S
from potluck.planning.cost import Footprint
from potluck.types import Attention, Capacity, EngineKind, Quantize, RowFormat, Span, Speed
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.identity import Identity
from potluck.wire.link import MemoryLink
from potluck.wire.message import Message
from potluck.wire.messages import (
    FromCoordinator,
    Hello,
    Ready,
    Refusal,
    Scores,
    Step,
    Welcome,
)
from potluck.wire.rows import pack_rows, pack_scores

LAYERS, WIDTH, VOCABULARY = 4, 2, 10
DIGEST = "d" * 64
TERMS = Terms(DIGEST, EngineKind.LLAMACPP, Quantize.NONE, Attention.EXACT, RowFormat.F32, 512)
READY = Ready(Capacity(8, 100, 576), Speed(0.01, 0.001), "twin", "plain")
IDS = np.array([1, 2, 3], np.int32)
ROWS = pack_rows(np.ones((3, WIDTH), np.float32), RowFormat.F32)
SCORES = pack_scores([(np.array([4], np.int32), np.array([-0.5], np.float32), 2.0)])


def make_service(audit: float = 0.0, guessers: Guessers | None = None) -> SwarmService:
    swarm = Swarm(DIGEST, Footprint((1,) * LAYERS, 0, 0))
    audits = Audits(audit, lambda *_: True)
    return compose_swarm(
        TERMS, swarm, new_lobby(reception()), width=WIDTH, vocabulary=VOCABULARY, audits=audits, guessers=guessers
    )


def hello(first: int = 0, last: int = 3, **changes: Any) -> Hello:
    fields = {"name": "anna", "software": "0.1", "model": "", "threads": 1}
    return Hello(**{**fields, "memory": 1 << 40, "span": Span(first, last), **changes})


class Node:
    """The test's end of a link that the gateway serves."""

    def __init__(self, service: SwarmService, host: str = "") -> None:
        self.link, theirs = MemoryLink.pair()
        self.service = service
        self.serving = asyncio.create_task(gateway_of(service).serve(theirs, host))
        self.name = ""

    async def send(self, message: Message, payload: bytes = b"") -> None:
        await self.link.send(encode(message, payload))

    async def introduce(self, first: int = 0, last: int = 3, identity: Identity = NODE, **changes: Any) -> None:
        await introduce(self.link, hello(first, last, **changes), identity)

    async def receive(self) -> FromCoordinator:
        return decode_from_coordinator(await self.link.receive())[0]

    async def step(self) -> Step:
        message = await self.receive()
        assert isinstance(message, Step)
        return message

    async def answer(self) -> None:
        """Play the last stage for one step."""
        step = await self.step()
        await self.send(Scores(step.session, step.route, step.step, (1,), 0.0, 0.0), SCORES)

    async def dropped(self) -> str:
        """The reason the gateway gives before it closes the link."""
        message = await self.receive()
        assert isinstance(message, Refusal)
        with pytest.raises(LinkClosed):
            await self.receive()
        await self.serving
        assert self.name not in self.service.swarm.nodes
        return message.reason

    async def leave(self) -> None:
        await self.link.close()
        await self.serving


async def join(
    service: SwarmService,
    first: int = 0,
    last: int = 3,
    ready: Ready = READY,
    host: str = "",
    identity: Identity = NODE,
) -> Node:
    node = Node(service, host)
    await node.introduce(first, last, identity)
    welcome = await node.receive()
    assert isinstance(welcome, Welcome)
    node.name = welcome.node
    changed = asyncio.create_task(service.changes.before(asyncio.get_running_loop().time() + HANG_S))
    await asyncio.sleep(0)  # it waits now
    await node.send(ready)
    assert await changed
    return node


def one_step(session: Session, asks: tuple[tuple[int, ...], ...] = ((),)) -> asyncio.Task[Any]:
    return asyncio.create_task(session.step(0, IDS, 1, asks))
