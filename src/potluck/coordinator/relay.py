"""Follows every step from stage to stage of its session's route. Without I/O: frames in, frames for nodes out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from potluck.coordinator.sampling import Candidates
from potluck.coordinator.trace import Hop, Trace
from potluck.errors import WireError
from potluck.types import RowFormat, Stage
from potluck.wire.codec import encode
from potluck.wire.messages import Close, Failed, Hidden, Scores, Step
from potluck.wire.rows import check_finite, payload_size, unpack_scores

Outgoing = tuple[str, bytes]
"""(node, frame)"""


@dataclass(slots=True)
class _Flight:
    """An open session: its route, and each step under way with the index of its stage and when it was sent there."""

    route: tuple[Stage, ...]
    version: int
    steps: dict[int, tuple[Step, int, float]] = field(default_factory=dict)


def _check_times(message: Hidden | Scores) -> None:
    if not all(math.isfinite(seconds) and seconds >= 0 for seconds in (message.queue_s, message.compute_s)):
        raise WireError("The times of a step must be numbers of seconds.")


class Relay:
    """hidden_size and rows say what the payload of a hidden frame must be; frames of any other size are malformed.

    clock: seconds, for the trace alone; nothing is decided by it.
    """

    def __init__(
        self, hidden_size: int, vocabulary: int, rows: RowFormat, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._hidden_size = hidden_size
        self._vocabulary = vocabulary
        self._rows = rows
        self._clock = clock
        self._flights: dict[int, _Flight] = {}
        self.trace = Trace()

    @property
    def row_bytes(self) -> int:
        """Of one hidden row on the wire."""
        return payload_size(1, self._hidden_size, self._rows)

    def open(self, session: int, route: tuple[Stage, ...], version: int) -> None:
        self._flights[session] = _Flight(route, version)

    def is_open(self, session: int) -> bool:
        return session in self._flights

    def start(self, step: Step, tokens: bytes) -> Outgoing:
        """Send the step to the first stage; `route`, `stages` and `last` are filled in here."""
        flight = self._flights[step.session]
        step = msgspec.structs.replace(step, route=flight.version, stages=len(flight.route))
        flight.steps[step.step] = (step, 0, self._clock())
        return self._to_stage(flight, step, 0, tokens)

    def _to_stage(self, flight: _Flight, step: Step, index: int, payload: bytes | memoryview) -> Outgoing:
        stage = flight.route[index]
        if index == len(flight.route) - 1:
            message = msgspec.structs.replace(step, last=stage.span.last)
        else:
            message = msgspec.structs.replace(step, last=stage.span.last, asks=())
        return stage.node, encode(message, payload)

    def hidden(self, node: str, message: Hidden, payload: memoryview) -> Outgoing | None:
        """A stage's rows go on to the next stage; None when the step is not awaited any more.

        Raises WireError when they are not what this node was asked for.
        """
        awaited = self._find(node, message)
        if awaited is None:
            return None
        flight, step, index, sent = awaited
        received = self._clock()
        _check_times(message)
        if index == len(flight.route) - 1:
            raise WireError("The last stage sent hidden rows where scores were due.")
        if message.rows != step.rows or len(payload) != payload_size(step.rows, self._hidden_size, self._rows):
            raise WireError(f"{len(payload)} bytes are not the {step.rows} hidden rows of this step.")
        check_finite(payload, step.rows, self._rows)
        self._record(flight, step, index, sent, received, message)
        flight.steps[message.step] = (step, index + 1, received)  # one look at the clock a frame: our own work is wire
        return self._to_stage(flight, step, index + 1, payload)

    def scores(self, node: str, message: Scores, payload: memoryview) -> list[Candidates] | None:
        """The end of a step: candidates for each wanted row; None when it is not awaited any more.

        Raises WireError when they are not what this node was asked for.
        """
        awaited = self._find(node, message)
        if awaited is None:
            return None
        flight, step, index, sent = awaited
        received = self._clock()
        _check_times(message)
        if index != len(flight.route) - 1:
            raise WireError("A stage that is not the last sent scores.")
        if len(message.counts) != len(step.asks):
            raise WireError(f"Scores of {len(message.counts)} rows came where {len(step.asks)} were wanted.")
        if any(not 1 <= count <= step.top + len(ask) for count, ask in zip(message.counts, step.asks, strict=True)):
            raise WireError("Scores name more or fewer candidates than were wanted.")
        rows = unpack_scores(payload, message.counts)
        if any(not set(ask) <= set(ids.tolist()) for ask, (ids, _, _) in zip(step.asks, rows, strict=True) if ask):
            raise WireError("Scores lack a token that was asked for.")
        candidates = [Candidates.checked(ids, scores, self._vocabulary, total) for ids, scores, total in rows]
        self._record(flight, step, index, sent, received, message)
        del flight.steps[message.step]
        return candidates

    def _record(
        self, flight: _Flight, step: Step, index: int, sent: float, received: float, message: Hidden | Scores
    ) -> None:
        stage = flight.route[index]
        self.trace.add(
            Hop(
                step.session,
                step.step,
                index,
                step.stages,
                stage.node,
                stage.span,
                step.rows,
                step.position,
                sent,
                received,
                message.queue_s,
                message.compute_s,
            )
        )

    def failed(self, node: str, message: Failed) -> bool:
        """Whether this failure ends a session that is open and at this node."""
        return self._find(node, message) is not None

    def _find(self, node: str, message: Hidden | Scores | Failed) -> tuple[_Flight, Step, int, float] | None:
        """The flight, step and stage this frame belongs to, and when the step was sent there.

        None for a late frame of a closed or re-routed session.
        """
        flight = self._flights.get(message.session)
        if flight is None or message.route != flight.version or message.step not in flight.steps:
            return None
        step, index, sent = flight.steps[message.step]
        if flight.route[index].node != node:
            raise WireError(f"Step {message.step} of session {message.session} is not at this node.")
        return flight, step, index, sent

    def close(self, session: int) -> list[Outgoing]:
        """Tell every node of the route to forget the session."""
        flight = self._flights.pop(session, None)
        frame = encode(Close(session))
        return [(stage.node, frame) for stage in flight.route] if flight else []
