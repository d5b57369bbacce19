"""The loop of a node: take the steps that have come in, run them as one batch, send the results on."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import numpy as np

from potluck.engine.base import Engine, Output, Segment
from potluck.errors import EngineError, PotluckError, Refused, WireError
from potluck.node.background import Worker
from potluck.node.batching import SMALL_ROWS, Waiting, choose_batch
from potluck.node.candidates import best_candidates
from potluck.node.hardware import Cores
from potluck.types import MAX_CANDIDATES, RowFormat
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.link import Link
from potluck.wire.messages import Close, Failed, Hidden, Refusal, Scores, Step
from potluck.wire.rows import pack_rows, pack_scores, unpack_ids, unpack_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A step with its input, ready for the engine."""

    step: Step
    segment: Segment


class Stage:
    """Serves one loaded engine over one link until the link closes."""

    def __init__(self, engine: Engine, link: Link, form: RowFormat, cores: Cores, worker: Worker) -> None:
        self._engine = engine
        self._link = link
        self._form = form
        self._cores = cores
        self._worker = worker
        self._queue: list[Task] = []
        self._closed: list[int] = []
        self._sessions: set[int] = set()
        self._arrived = asyncio.Event()

    async def run(self) -> None:
        """Raises LinkClosed when the coordinator is gone, Refused when it turns this node away."""
        receiver = asyncio.create_task(self._receive())
        worker = asyncio.create_task(self._work())
        try:
            await asyncio.wait((receiver, worker), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (receiver, worker):
                task.cancel()
            results = await asyncio.gather(receiver, worker, return_exceptions=True)
        # Behind a batch that still runs there: the engine outlives this link, its sessions do not.
        await self._worker.run(self._close_all)
        raise next(error for error in results if isinstance(error, Exception))

    def _close_all(self) -> None:
        for session in self._sessions:
            self._engine.close(session)

    async def _receive(self) -> None:
        while True:
            message, payload = decode_from_coordinator(await self._link.receive())
            match message:
                case Step():
                    self._queue.append(Task(message, self._segment(message, payload)))
                    self._sessions.add(message.session)
                case Close(session):
                    self._queue = [task for task in self._queue if task.step.session != session]
                    self._closed.append(session)
                case Refusal(reason):
                    raise Refused(reason)
                case _:
                    raise WireError(f"The coordinator sent {type(message).__name__} to a serving node.")
            self._arrived.set()

    def _segment(self, step: Step, payload: memoryview) -> Segment:
        """Raises WireError when the payload is not what the step says."""
        most = self._engine.capacity.rows
        if not 1 <= step.rows <= most or len(step.asks) > step.rows or not 1 <= step.top <= MAX_CANDIDATES:
            raise WireError("A step asks for more rows or candidates than it may.")
        if self._engine.span.first == 0:
            return Segment(step.session, step.position, unpack_ids(payload, step.rows), step.last, len(step.asks))
        rows = unpack_rows(payload, step.rows, self._engine.hidden_size, self._form)
        return Segment(step.session, step.position, rows, step.last, len(step.asks))

    async def _work(self) -> None:
        """The loop."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._closed or self._queue:
                self._forget_closed()
                if self._queue:
                    await self._run_batch(self._take_batch())

    def _forget_closed(self) -> None:
        for session in self._closed:
            self._engine.close(session)
            self._sessions.discard(session)
        self._closed.clear()

    def _take_batch(self) -> list[Task]:
        waiting = [Waiting(task.step.session, task.step.rows, task.step.last) for task in self._queue]
        chosen = choose_batch(waiting, self._engine.capacity.rows)
        batch = [self._queue[index] for index in chosen]
        for index in sorted(chosen, reverse=True):
            del self._queue[index]
        return batch

    async def _run_batch(self, batch: list[Task]) -> None:
        try:
            frames = await self._results(batch)
        except EngineError as error:
            await self._give_up(batch, error)
        else:
            for frame in frames:
                await self._link.send(frame)

    async def _results(self, batch: list[Task]) -> list[bytes]:
        """Small batches run right here: handing them to a thread and back costs as much as a layer.

        Long ones run beside the event loop, which meanwhile sends, receives and answers pings.
        """
        if sum(task.step.rows for task in batch) <= SMALL_ROWS:
            frames = self._forward(batch)
            await asyncio.sleep(0)  # lets the loop read what has come in meanwhile
            return frames
        self._engine.rest()
        return await self._worker.run(self._forward_and_rest, batch)

    def _forward_and_rest(self, batch: list[Task]) -> list[bytes]:
        try:
            return self._forward(batch)
        finally:
            self._engine.rest()

    def _forward(self, batch: list[Task]) -> list[bytes]:
        for task in batch:
            self._check_asks(task.step)
        with self._cores.share() as threads:
            self._engine.set_threads(threads)
            outputs = self._engine.forward([task.segment for task in batch])
        return [self._frame(task.step, output) for task, output in zip(batch, outputs, strict=True)]

    def _check_asks(self, step: Step) -> None:
        vocabulary = self._engine.vocabulary
        if step.last == self._engine.layers - 1 and not all(0 <= one < vocabulary for ask in step.asks for one in ask):
            raise EngineError(f"A token that was asked for lies outside the vocabulary of {vocabulary}.")

    def _frame(self, step: Step, output: Output) -> bytes:
        if step.last < self._engine.layers - 1:
            message = Hidden(step.session, step.route, step.step, step.rows, 0.0, 0.0)
            return encode(message, pack_rows(output, self._form))
        if not np.isfinite(output).all():
            raise EngineError("The model gave logits that are not finite numbers.")
        rows = [best_candidates(logits, step.top, ask) for logits, ask in zip(output, step.asks, strict=True)]
        counts = tuple(len(ids) for ids, _, _ in rows)
        return encode(Scores(step.session, step.route, step.step, counts, 0.0, 0.0), pack_scores(rows))

    async def _give_up(self, batch: list[Task], error: PotluckError) -> None:
        """A batch that failed as a whole is tried step by step, so that one bad step fails alone."""
        if len(batch) > 1:
            for task in batch:
                await self._run_batch([task])
            return
        [task] = batch
        log.warning("A step of session %d failed: %s", task.step.session, error)
        reason = Failed(task.step.session, task.step.route, task.step.step, str(error))
        await self._link.send(encode(reason))
