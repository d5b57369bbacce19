"""Follows every step from stage to stage of its session's route. Without I/O: frames in, frames for nodes out."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from potluck.coordinator.relay.candidates import Candidates
from potluck.coordinator.relay.evidence import Evidence
from potluck.coordinator.relay.forward import Forward
from potluck.coordinator.relay.trace import Hop, Trace
from potluck.coordinator.relay.witness import Witness
from potluck.errors import RequestError, WireError
from potluck.types import RowFormat, Stage
from potluck.wire.codec import encode
from potluck.wire.messages import Close, Failed, Hidden, Kept, Recall, Scores, Step
from potluck.wire.rows import (
    Rows,
    check_finite,
    join_rows,
    payload_size,
    split_rows,
    split_scores,
    unpack_ids,
    unpack_rows,
    unpack_scores,
)

Outgoing = tuple[str, bytes]
"""(node, frame)"""


Result = list[Candidates] | list[bytes]
"""The result of a step: candidates of each wanted row; or rows as bytes, for an audit's step or one that ends with
hidden rows; or empty, if its keys and values were only to be kept."""


_WEIGHT = 0.2
"""The weight of the latest row in a stage's mean time."""


class Answered(NamedTuple):
    """The outcome of an answer that was awaited. hop: its step's stay at the stage; None if the stage only recalled
    rows.

    onward: the step, for the next stage. result: how it ended, if it has.
    """

    hop: Hop | None
    onward: Outgoing | None = None
    result: Result | None = None


class _Leg(NamedTuple):
    """A step under way: its place in the route, when it was sent there, and where it ends.

    recalled: its stage only sends what it has in its journal. This is a tuple, because one is made for every frame.
    """

    step: Forward
    place: int
    sent: float
    goal: int
    recalled: bool = False


@dataclass(slots=True)
class _Flight:
    """An open session: its route, and its steps under way. lost: a stage of the route is gone.

    audited: the session is an audit, in which one stage computes what this evidence says about another.
    inner: the route ends within the model, so that a step ends with hidden rows.
    """

    route: tuple[Stage, ...]
    version: int
    legs: dict[int, _Leg] = field(default_factory=dict)
    lost: bool = False
    audited: Evidence | None = None
    inner: bool = False
    compute_s: dict[int, float] = field(default_factory=dict)
    """The mean seconds that each stage computes for one row, by its place."""
    stages: int = field(init=False)
    """The number of stages that the route's nodes are told. An audit looks like the session that it is about."""

    def __post_init__(self) -> None:
        self.stages = self.audited.stages if self.audited else len(self.route)


class Awaited(NamedTuple):
    """A step that a node has: its rows, and the time at which it was sent by the relay's clock."""

    node: str
    rows: int
    sent: float


def _overtakes(step: int, leg: _Leg, legs: Mapping[int, _Leg]) -> bool:
    """Whether an earlier step is at the same stage."""
    return any(number < step and other.place == leg.place for number, other in legs.items())


def _check_times(message: Hidden | Scores | Kept) -> None:
    if not (0 <= message.queue_s < math.inf and 0 <= message.compute_s < math.inf):  # NaN is neither
        raise WireError("The times of a step must be numbers of seconds.")


class Relay:
    """Follows steps. hidden_size, rows: they determine the size of a hidden frame's payload; other sizes are malformed.

    witness: is shown what stages are given and pass on. clock: seconds, for times that are noted; no decision depends
    on it. It must be a fine one, because steps take milliseconds.
    """

    def __init__(
        self,
        hidden_size: int,
        vocabulary: int,
        rows: RowFormat,
        witness: Witness | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.width = hidden_size
        """The values of a hidden row."""
        self._vocabulary = vocabulary
        self.rows = rows
        self.row_bytes = payload_size(1, hidden_size, rows)
        """The bytes of one hidden row on the wire."""
        self._witness = witness or Witness(rows)
        self.clock = clock
        self._flights: dict[int, _Flight] = {}
        self.trace = Trace()
        self._owed: Counter[str] = Counter()
        """The answers that each node may still give: one for each step or recall that was sent to it."""

    def unpack(self, rows: list[bytes]) -> Rows:
        """The hidden rows that a step ended with."""
        return unpack_rows(memoryview(join_rows(rows, self.rows)), len(rows), self.width, self.rows)

    def open(self, session: int, route: tuple[Stage, ...], version: int, inner: bool = False) -> None:
        """Open a session. inner: the route ends within the model, so that its steps end with hidden rows."""
        self._flights[session] = _Flight(route, version, inner=inner)

    def open_audit(self, session: int, stage: Stage, evidence: Evidence) -> None:
        """Open a session in which one node computes what the evidence says about another."""
        self._flights[session] = _Flight((stage,), 1, audited=evidence, inner=not evidence.final)

    def is_open(self, session: int) -> bool:
        """Whether steps can run: the session is known, and all stages of its route are there."""
        flight = self._flights.get(session)
        return flight is not None and not flight.lost

    def lose(self, session: int) -> None:
        """Note that a stage of the session's route is gone. Steps under way are no longer awaited, until `reroute`."""
        flight = self._flights.get(session)
        if flight is not None:
            flight.version += 1
            flight.legs.clear()
            flight.lost = True

    def abandon(self, session: int, holders: Collection[str]) -> list[Outgoing]:
        """Lose the session's stages at all but these nodes, which are told to forget it."""
        self.lose(session)
        frame = encode(Close(session))
        return [(stage.node, frame) for stage in self._flights[session].route if stage.node not in holders]

    def restart(self, session: int) -> None:
        """Stop awaiting the steps that are under way. The route stays."""
        self.reroute(session, self._flights[session].route)

    def reroute(self, session: int, route: tuple[Stage, ...]) -> list[Outgoing]:
        """Let the session continue on another route. Stages that are no longer on it are told to forget it."""
        flight = self._flights[session]
        kept = {stage.node for stage in route}
        frame = encode(Close(session))
        left = [(stage.node, frame) for stage in flight.route if stage.node not in kept]
        self._flights[session] = _Flight(route, flight.version + 1)
        self._witness.reroute(session, route)
        return left

    def start(self, step: Forward, payload: bytes) -> Outgoing:
        """Send the step to the first stage. payload: its input.

        Raises RequestError for tokens that the model does not have: every node would fail, and none would be at fault.
        """
        flight = self._flights[step.session]
        if flight.audited is None:
            self._check_tokens(step, payload)
        self.void(step.session, step.position)
        return self._to_stage(flight, _Leg(step, 0, self.clock(), len(flight.route) - 1), payload)

    def _check_tokens(self, step: Forward, payload: bytes) -> None:
        ids = unpack_ids(memoryview(payload), step.rows).tolist()
        for ask in step.asks:
            ids += ask
        if not 0 <= min(ids) <= max(ids) < self._vocabulary:
            wrong = next(token for token in ids if not 0 <= token < self._vocabulary)
            raise RequestError(f"The model does not have the token {wrong}: its tokens are 0-{self._vocabulary - 1}.")

    def void(self, session: int, position: int) -> None:
        """Neither await nor pass on the session's steps that begin at this position or after it, because they were
        guesses, and other tokens came.

        A stage that has run some of them forgets them with the next step that begins before them.
        """
        flight = self._flights.get(session)
        if flight is None or not flight.legs:
            return
        for number in [number for number, leg in flight.legs.items() if leg.step.position >= position]:
            leg = flight.legs.pop(number)
            stage = flight.route[leg.place]
            self.trace.add(Hop.of(leg.step, leg.place, flight.stages, stage, leg.sent, self.clock(), void=True))

    def compute_s(self, session: int) -> float:
        """The seconds that the session's slowest stage computes for one row; 0 before the first."""
        flight = self._flights.get(session)
        return max(flight.compute_s.values(), default=0.0) if flight is not None else 0.0

    def rebuild(self, step: Forward, tokens: bytes, first: int, goal: int) -> Outgoing:
        """Run a step with `keep` through the stages `first` … `goal` alone, so that they hold what lost ones held.

        The first stage of the route computes it from the tokens, any other from what the stage before it recalls.
        """
        flight = self._flights[step.session]
        if first == 0:
            return self._to_stage(flight, _Leg(step, 0, self.clock(), goal), tokens)
        flight.legs[step.step] = _Leg(step, first - 1, self.clock(), goal, recalled=True)
        self._owed[flight.route[first - 1].node] += 1
        recall = Recall(step.session, flight.version, step.step, step.position, step.rows)
        return flight.route[first - 1].node, encode(recall)

    def awaited(self) -> list[Awaited]:
        """Every step under way, as the node that has it is seen."""
        return [
            Awaited(flight.route[leg.place].node, leg.step.rows, leg.sent)
            for flight in self._flights.values()
            for leg in flight.legs.values()
        ]

    def _to_stage(self, flight: _Flight, leg: _Leg, payload: bytes | memoryview) -> Outgoing:
        """Send the step to the stage of its leg."""
        step, stage = leg.step, flight.route[leg.place]
        flight.legs[step.step] = leg
        self._owed[stage.node] += 1
        self._witness.given(leg.place, step, payload)
        asks = step.asks if leg.place == len(flight.route) - 1 else ()
        keep = step.keep and leg.place == leg.goal
        # By position, in the order of its fields: keywords take a microsecond more, of the fifty that a frame takes.
        message = Step(
            step.session,
            flight.version,
            step.step,
            step.position,
            step.rows,
            stage.span.last,
            step.top,
            asks,
            flight.stages,
            keep,
        )
        return stage.node, encode(message, payload)

    def hidden(self, node: str, message: Hidden, payload: memoryview) -> Answered | None:
        """Take a stage's rows, which go to the next stage or end the step. None if the step is no longer awaited.

        Raises WireError when the rows are not what this node was asked for.
        """
        awaited = self._find(node, message)
        if awaited is None:
            return None
        flight, leg = awaited
        step, received = leg.step, self.clock()
        _check_times(message)
        if leg.place == leg.goal and not flight.inner:
            raise WireError("The last stage sent hidden rows where it should not.")
        if message.rows != step.rows or len(payload) != step.rows * self.row_bytes:
            raise WireError(f"{len(payload)} bytes are not the {step.rows} hidden rows of this step.")
        check_finite(payload, step.rows, self.rows)
        hop = self._record(flight, leg, received, message)
        note = self._witness.recalled if leg.recalled else self._witness.gave
        note(leg.place, step, payload)
        if leg.place == leg.goal:
            del flight.legs[message.step]
            return Answered(hop, result=split_rows(payload, step.rows, self.rows))
        # One look at the clock a frame: our own work counts as wire.
        onward = self._to_stage(flight, _Leg(step, leg.place + 1, received, leg.goal), payload)
        return Answered(None if leg.recalled else hop, onward)

    def scores(self, node: str, message: Scores, payload: memoryview) -> Answered | None:
        """Take the end of a step, with candidates for each wanted row. None if the step is no longer awaited.

        Raises WireError when they are not what this node was asked for.
        """
        awaited = self._find(node, message)
        if awaited is None:
            return None
        flight, leg = awaited
        step, received = leg.step, self.clock()
        _check_times(message)
        if leg.place != len(flight.route) - 1 or step.keep or flight.inner:
            raise WireError("Scores came from a stage that was not asked for them.")
        if len(message.counts) != len(step.asks):
            raise WireError(f"Scores of {len(message.counts)} rows came where {len(step.asks)} were wanted.")
        if any(not 1 <= count <= step.top + len(ask) for count, ask in zip(message.counts, step.asks, strict=True)):
            raise WireError("Scores name more or fewer candidates than were wanted.")
        rows = unpack_scores(payload, message.counts)
        if any(not set(ask) <= set(ids.tolist()) for ask, (ids, _, _) in zip(step.asks, rows, strict=True) if ask):
            raise WireError("Scores lack a token that was asked for.")
        candidates = [Candidates.checked(ids, scores, self._vocabulary, total) for ids, scores, total in rows]
        hop = self._record(flight, leg, received, message)
        del flight.legs[message.step]
        if flight.audited is not None:
            return Answered(hop, result=split_scores(payload, message.counts))
        self._witness.scored(leg.place, step, message.counts, payload)
        return Answered(hop, result=candidates)

    def kept(self, node: str, message: Kept) -> Answered | None:
        """Take the end of a rebuilding step. None if it is no longer awaited. Raises WireError as `scores` does."""
        awaited = self._find(node, message)
        if awaited is None:
            return None
        flight, leg = awaited
        _check_times(message)
        if leg.place != leg.goal or not leg.step.keep:
            raise WireError("A stage says that it keeps a step which it should have answered.")
        hop = self._record(flight, leg, self.clock(), message)
        del flight.legs[message.step]
        self._witness.kept(leg.place, leg.step)
        return Answered(hop, result=[])

    def _record(self, flight: _Flight, leg: _Leg, received: float, message: Hidden | Scores | Kept) -> Hop:
        stage, times = flight.route[leg.place], (leg.sent, received, message.queue_s, message.compute_s)
        hop = Hop.of(leg.step, leg.place, flight.stages, stage, *times)
        self._owed[hop.node] -= 1
        self.trace.add(hop)
        if hop.rows == 1:
            seconds = hop.shares[1]
            latest = flight.compute_s.get(leg.place, seconds)
            flight.compute_s[leg.place] = latest + _WEIGHT * (seconds - latest)
        return hop

    def failed(self, node: str, message: Failed) -> Forward | None:
        """The step that this failure ends; None if it is no longer awaited."""
        awaited = self._find(node, message)
        if awaited is None:
            return None
        self._owed[node] -= 1
        return awaited[1].step

    def _find(self, node: str, message: Hidden | Scores | Kept | Failed) -> tuple[_Flight, _Leg] | None:
        """The flight and the leg that this frame belongs to; None for a late frame of a closed or re-routed session.

        Raises WireError for a frame that answers nothing, or answers a session's steps in another order than they were
        sent.
        """
        flight = self._flights.get(message.session)
        if flight is None or message.route != flight.version or message.step not in flight.legs:
            if self._owed[node] < 1:
                raise WireError("The node answers more steps than it was given.")
            self._owed[node] -= 1
            return None
        leg = flight.legs[message.step]
        if flight.route[leg.place].node != node:
            raise WireError(f"Step {message.step} of session {message.session} is not at this node.")
        if len(flight.legs) > 1 and _overtakes(message.step, leg, flight.legs):
            raise WireError(f"Step {message.step} of session {message.session} overtakes another.")
        return flight, leg

    def forget(self, node: str) -> int:
        """Forget a node that has left. Returns the number of answers that it may still give."""
        return self._owed.pop(node, 0)

    def owe(self, node: str, answers: int) -> None:
        """A node that comes from another model may still give so many answers for that one. They are passed over."""
        self._owed[node] += answers

    def close(self, session: int) -> list[Outgoing]:
        """Tell every node of the route to forget the session."""
        flight = self._flights.pop(session, None)
        self._witness.close(session)
        frame = encode(Close(session))
        return [(stage.node, frame) for stage in flight.route] if flight else []
