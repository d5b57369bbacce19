"""A node's engine loop over a link whose other end the test holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import msgspec
import numpy as np

from kit.toy_engine import LAYERS, SPEED, ToyEngine, TwoCores
from potluck.node.background import Worker
from potluck.node.engine_loop import EngineLoop
from potluck.node.hardware import Cores
from potluck.types import RowFormat, Span
from potluck.wire.codec import decode_from_node, encode
from potluck.wire.link import MemoryLink
from potluck.wire.message import Message
from potluck.wire.messages import (
    Failed,
    FromNode,
    Hidden,
    Kept,
    Scores,
    Step,
)
from potluck.wire.rows import pack_ids, pack_rows


class Bench:
    """A stage over a link; the test plays the coordinator."""

    def __init__(self, span: Span, form: RowFormat = RowFormat.F32) -> None:
        self.engine = ToyEngine(span)
        self.link, self.theirs = MemoryLink.pair()
        self.cores = TwoCores()
        self.loop = EngineLoop(self.engine, SPEED, self.theirs, form, cast(Cores, self.cores), Worker())

    async def serve(self) -> None:
        try:
            await self.loop.run()
        finally:
            await self.theirs.close()

    async def send(self, message: Message, payload: bytes = b"") -> None:
        await self.link.send(encode(message, payload))

    async def tokens(self, session: int, ids: Sequence[int], position: int = 0, last: int = 1, number: int = 0) -> None:
        step = Step(
            session=session, route=1, step=number, position=position, rows=len(ids), last=last, top=1, asks=(), stages=1
        )
        await self.send(step, pack_ids(np.array(ids, np.int32)))

    async def rows(self, session: int, rows: Sequence[Sequence[float]], asks: tuple[tuple[int, ...], ...]) -> None:
        step = Step(
            session=session, route=1, step=0, position=0, rows=len(rows), last=LAYERS - 1, top=2, asks=asks, stages=1
        )
        await self.send(step, pack_rows(np.array(rows, np.float32), RowFormat.F32))

    async def receive(self) -> tuple[FromNode, memoryview]:
        """A message, its times left out."""
        message, payload = decode_from_node(await self.link.receive())
        if isinstance(message, Hidden | Scores | Kept):
            assert message.queue_s >= 0
            assert message.compute_s >= 0
            message = msgspec.structs.replace(message, queue_s=0.0, compute_s=0.0)
        return message, payload

    async def receive_all(self, count: int) -> dict[int, FromNode]:
        """The answers of so many sessions."""
        messages = [(await self.receive())[0] for _ in range(count)]
        return {message.session: message for message in messages if isinstance(message, Hidden | Scores | Failed)}


@contextmanager
def serving(bench: Bench) -> Iterator[asyncio.Task[None]]:
    task = asyncio.create_task(bench.serve())
    try:
        yield task
    finally:
        task.cancel()
