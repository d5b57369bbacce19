"""The loop of a node: it takes the steps that have arrived, runs them as one batch, and sends the results on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from potluck.engine.base import Engine, Output, Rows, Tokens
from potluck.errors import EngineError, PotluckError, Refused, WireError
from potluck.node.background import Worker
from potluck.node.batching import Waiting, choose_batch, fair_share, prompt_rows
from potluck.node.candidates import best_candidates
from potluck.node.cost import Cost
from potluck.node.hardware import Cores
from potluck.node.journal import Journal
from potluck.node.pace import Pace
from potluck.node.step_part import Batch, StepPart
from potluck.types import MAX_CANDIDATES, SMALL_ROWS, Coordinator, RowFormat, Speed
from potluck.wire.bundles import bundle
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.fleet import Fleet, Redirect
from potluck.wire.link import Link
from potluck.wire.messages import (
    MOST_STATE,
    Close,
    Export,
    Exported,
    Failed,
    FromCoordinator,
    Hidden,
    Import,
    Imported,
    Kept,
    Notice,
    PeerToken,
    Ping,
    Pong,
    Recall,
    Refusal,
    Released,
    Scores,
    Step,
    Welcome,
)
from potluck.wire.parts import Parts, state_frames
from potluck.wire.rows import pack_rows, pack_scores, unpack_ids, unpack_rows

log = logging.getLogger(__name__)

JOURNAL_BYTES = 128 << 20
"""The limit of the journal in bytes, which is a part of what `planning.cost.RESERVE_BYTES` sets aside."""

_TURNS = 3
"""The turns of the event loop in which a frame gets from the socket to the queue. After each batch the loop has these,
because what has come in meanwhile belongs to the next batch."""


class EngineLoop:
    """Serves one loaded engine of this speed over one link until the link closes.

    say: receives sentences for the owner. on_token: receives each new token for downloading tensors from this node.
    on_fleet: receives what the coordinator tells of others.
    """

    def __init__(
        self,
        engine: Engine,
        speed: Speed,
        link: Link,
        form: RowFormat,
        cores: Cores,
        worker: Worker,
        say: Callable[[str], None] = log.info,
        on_token: Callable[[str], None] = lambda _: None,
        on_fleet: Callable[[Sequence[Coordinator]], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._tokens, self._prompts = Cost(speed), Cost(speed)
        self._link = link
        self._form = form
        self._cores = cores
        self._worker = worker
        self._queue: list[StepPart] = []
        self._closed: list[int] = []
        self._moves: list[tuple[Export | Import, bytes]] = []
        self._states: dict[int, Parts] = {}
        self._journal = Journal(engine.hidden_size, JOURNAL_BYTES)
        self._say = say
        self._on_token, self._on_fleet = on_token, on_fleet
        self._sessions: set[int] = set()
        self._pace = Pace()
        self._prompts_turn = False
        self._paused = False
        self._arrived = asyncio.Event()

    async def run(self) -> Welcome | Redirect | None:
        """Serve until the coordinator gives this node other layers (returns its welcome), sends it to another
        coordinator (returns where), or lets it go (returns None).

        Raises LinkClosed when the coordinator is gone, Refused when it turns this node away.
        """
        receiver = asyncio.create_task(self._receive())
        worker = asyncio.create_task(self._work())
        try:
            await asyncio.wait((receiver, worker), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (receiver, worker):
                task.cancel()
            results = await asyncio.gather(receiver, worker, return_exceptions=True)
        self._engine.rest()
        # Behind a batch that still runs there: the engine outlives this link, its sessions do not.
        await self._worker.run(self._close_all)
        for error in results:
            if isinstance(error, Exception):
                raise error
        return receiver.result()

    def pause(self) -> None:
        """Stop computing until `resume`. Waiting steps and new ones fail."""
        self._paused = True
        self._arrived.set()

    def resume(self) -> None:
        self._paused = False

    def _close_all(self) -> None:
        for session in self._sessions:
            self._engine.close(session)

    async def _receive(self) -> Welcome | Redirect | None:
        while True:
            message, payload = decode_from_coordinator(await self._link.receive())
            match message:
                case Step():
                    self._add(StepPart(message, self._input(message, payload), time.perf_counter()))
                case Welcome() | Redirect():
                    return message
                case Released():
                    return None
                case _:
                    await self._take(message, payload)
            self._arrived.set()

    async def _take(self, message: FromCoordinator, payload: memoryview) -> None:
        """Handle a message that is not a step."""
        match message:
            case Close(session):
                self._queue = [part for part in self._queue if part.step.session != session]
                self._moves = [move for move in self._moves if move[0].session != session]
                self._states.pop(session, None)
                self._closed.append(session)
            case Ping(number):
                await self._link.send(encode(Pong(number, self._engine.sessions), payload))
            case Recall():
                await self._link.send(self._recalled(message))
            case Export():
                self._moves.append((message, b""))
            case Import(session, left):
                whole = self._states.setdefault(session, Parts()).add(left, payload)
                if whole is not None:
                    del self._states[session]
                    self._moves.append((message, whole))
            case Notice(text):
                self._say(text)
            case PeerToken(token):
                self._on_token(token)
            case Fleet(coordinators):
                self._on_fleet(coordinators)
            case Refusal(reason):
                raise Refused(reason)
            case _:
                raise WireError(f"The coordinator sent {type(message).__name__} to a serving node.")

    def _recalled(self, message: Recall) -> bytes:
        rows = self._journal.rows(message.session, message.position, message.rows)
        if rows is None:
            return _failure(message, "The journal does not reach that far back.")
        hidden = Hidden(message.session, message.route, message.step, message.rows, 0.0, 0.0)
        return encode(hidden, pack_rows(rows, self._form))

    def _add(self, part: StepPart) -> None:
        self._queue = [other for other in self._queue if not part.overwrites(other)]
        if part.small:
            waits = any(other.step.session == part.step.session for other in self._queue)
            self._pace.note(part.step.session, part.arrived, waits=waits)
        self._queue.append(part)

    def _input(self, step: Step, payload: memoryview) -> Tokens | Rows:
        """The step's payload as an array. Raises WireError when it does not match the step."""
        most = self._engine.capacity.rows
        if not 1 <= step.rows <= most or len(step.asks) > step.rows or not 1 <= step.top <= MAX_CANDIDATES:
            raise WireError("A step asks for more rows or candidates than it may.")
        if step.position < 0:
            raise WireError("A step begins before the first position.")
        if step.stages < 1:
            raise WireError("A step's route has no stages.")
        if self._engine.span.first == 0:
            return unpack_ids(payload, step.rows)
        return unpack_rows(payload, step.rows, self._engine.hidden_size, self._form)

    async def _work(self) -> None:
        """Run batches until the link closes."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._closed or self._moves or self._queue:
                self._forget_closed()
                while self._moves:
                    await self._move(*self._moves.pop(0))
                if self._paused:
                    await self._refuse_steps()
                elif self._queue:
                    await self._run_batch(self._take_batch())

    async def _refuse_steps(self) -> None:
        refused, self._queue = self._queue, []
        await self._send(_failure(part.step, "The node pauses.") for part in refused)

    async def _move(self, message: Export | Import, state: bytes) -> None:
        """Between two batches, give away a session's keys and values, or take those that another node had."""
        match message:
            case Export(session, most):
                for frame in state_frames(Exported, session, self._exported(session, most)):
                    await self._link.send(frame)
            case Import(session):
                await self._link.send(encode(Imported(session, self._imported(session, state))))

    def _exported(self, session: int, most: int) -> bytes:
        try:
            state = self._engine.export(session)
        except EngineError as error:
            log.info("Session %d is computed anew elsewhere: %s", session, error)
            return b""
        return state if len(state) <= min(most, MOST_STATE) else b""

    def _imported(self, session: int, state: bytes) -> int:
        """Take in keys and values from another node, and return how many positions the session then has."""
        self._journal.close(session)
        self._sessions.add(session)
        try:
            self._engine.restore(session, state)
        except EngineError as error:
            log.warning("Session %d is computed anew here: %s", session, error)
        return self._engine.length(session)

    def _forget_closed(self) -> None:
        for session in self._closed:
            self._engine.close(session)
            self._journal.close(session)
            self._sessions.discard(session)
            self._pace.forget(session)
        self._closed.clear()

    def _take_batch(self) -> Batch:
        """Take steps from the queue. A step that is taken whole leaves the queue; a prompt that is cut stays."""
        waiting = [Waiting(part.step.session, part.left, part.step.last, part.small) for part in self._queue]
        now, most = time.perf_counter(), self._engine.capacity.rows
        prompting = {part.step.session for part in self._queue if not part.small}
        queued = {part.step.session for part in self._queue if part.small}  # however long they have waited
        generating = (self._pace.generating(now) | queued) - prompting
        stages = self._queue[0].step.stages
        share = fair_share(len(generating), stages)
        turn_s = self._tokens.seconds(fair_share(len(generating | prompting), stages))
        spare_s = 0.0 if queued else self._pace.spare_s(generating, now)
        takes = choose_batch(
            waiting,
            most,
            share=share,
            prompt_rows=prompt_rows(self._prompts, turn_s, spare_s) if generating else most,
            prompts_turn=self._prompts_turn,
        )
        batch = [(self._queue[take.place], take.rows) for take in takes]
        for part, _ in batch:
            part.begun = True
        self._prompts_turn = batch[0][0].small
        whole = {part for part, rows in batch if rows == part.left}
        ran = {part.step.session for part in whole if part.small}
        left = [part for part in self._queue if part not in whole]
        # Guesses that came with a token wait behind the tokens of others, as if they had come after it was computed.
        self._queue = sorted(left, key=lambda part: part.step.session in ran)
        return batch

    async def _run_batch(self, batch: Batch) -> None:
        try:
            frames = await self._results(batch)
        except EngineError as error:
            await self._give_up(batch, error)
        else:
            await self._send(frames)
            for _ in range(_TURNS):
                await asyncio.sleep(0)

    async def _send(self, frames: Iterable[bytes]) -> None:
        """Send frames together, so that the sessions of a batch stay together."""
        waiting = deque(frames)
        while waiting:
            await self._link.send(bundle(waiting))

    async def _results(self, batch: Batch) -> list[bytes]:
        """Compute a batch. A small one runs right here, because handing it to a thread and back costs as much as a
        layer.

        One that takes long, or has to wait for cores, runs beside the event loop, which meanwhile sends, receives and
        answers pings.
        """
        lengths = {part.step.session: part.step.position + part.done + rows for part, rows in batch}
        if sum(rows for _, rows in batch) <= SMALL_ROWS and not self._engine.must_arrange(lengths):
            with self._cores.share(wait=False) as cores:
                outputs = self._forward(batch, cores) if cores else []
            if outputs:
                return self._finish(batch, outputs)
        self._engine.rest()
        return await self._worker.run(self._forward_and_rest, batch)

    def _forward_and_rest(self, batch: Batch) -> list[bytes]:
        try:
            with self._cores.share() as cores:
                outputs = self._forward(batch, cores)
            return self._finish(batch, outputs)
        finally:
            self._engine.rest()

    def _forward(self, batch: Batch, cores: Sequence[int]) -> list[Output]:
        """Run a batch through the engine on these cores."""
        for part, _ in batch:
            self._prepare(part)
        self._engine.use_cores(cores)
        begin = time.perf_counter()
        outputs = self._engine.forward([part.segment(rows) for part, rows in batch])
        seconds = time.perf_counter() - begin
        self._note_speed(batch, seconds)
        for part, _ in batch:
            part.compute_s += seconds
        return outputs

    def _finish(self, batch: Batch, outputs: list[Output]) -> list[bytes]:
        """Returns the frames of those steps that are complete with these outputs."""
        for (part, rows), output in zip(batch, outputs, strict=True):
            part.outputs.append(output)
            part.done += rows
        return [self._frame(part) for part, _ in batch if not part.left]

    def _note_speed(self, batch: Batch, seconds: float) -> None:
        rows = sum(rows for _, rows in batch)
        if batch[0][0].small:
            self._tokens.note(rows, seconds)
        else:
            self._prompts.note(rows, seconds)
            self._pace.disturb(time.perf_counter())

    def _prepare(self, part: StepPart) -> None:
        step = part.step
        self._sessions.add(step.session)  # not when it comes: an earlier Close may still wait, and would forget it
        self._check_asks(step)
        if not part.done and step.position < self._engine.length(step.session):
            self._engine.truncate(step.session, step.position)
            self._journal.truncate(step.session, step.position)

    def _check_asks(self, step: Step) -> None:
        vocabulary = self._engine.vocabulary
        if step.last == self._engine.layers - 1 and not all(0 <= one < vocabulary for ask in step.asks for one in ask):
            raise EngineError(f"A token that was asked for lies outside the vocabulary of {vocabulary}.")

    def _frame(self, part: StepPart) -> bytes:
        step, output = part.step, part.output()
        queue_s = max(0.0, time.perf_counter() - part.arrived - part.compute_s)
        goes_on = step.last < self._engine.layers - 1
        if not np.isfinite(output).all():
            return _failure(step, "The model gave numbers that are not finite.")
        if goes_on:
            self._journal.note(step.session, step.position, output)
        if step.keep:
            return encode(Kept(step.session, step.route, step.step, queue_s, part.compute_s))
        if goes_on:
            message = Hidden(step.session, step.route, step.step, step.rows, queue_s, part.compute_s)
            return encode(message, pack_rows(output, self._form))
        rows = [best_candidates(logits, step.top, ask) for logits, ask in zip(output, step.asks, strict=True)]
        counts = tuple(len(ids) for ids, _, _ in rows)
        scores = Scores(step.session, step.route, step.step, counts, queue_s, part.compute_s)
        return encode(scores, pack_scores(rows))

    async def _give_up(self, batch: Batch, error: PotluckError) -> None:
        """When a batch fails as a whole, try it step by step, so that only the bad step fails."""
        if len(batch) > 1:
            for item in batch:
                await self._run_batch([item])
            return
        [(part, _)] = batch
        self._queue = [other for other in self._queue if other is not part]
        await self._link.send(_failure(part.step, str(error)))


def _failure(step: Step | Recall, reason: str) -> bytes:
    log.warning("A step of session %d failed: %s", step.session, reason)
    return encode(Failed(step.session, step.route, step.step, reason))
