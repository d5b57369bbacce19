"""The heartbeat: finds nodes that are silent, and those that talk but answer no step. Pure: times come in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from potluck.coordinator.relay.relay import Awaited
from potluck.coordinator.swarm.events import Revived, Stalled
from potluck.coordinator.swarm.measure import Measure

LOOK_S = 0.25
"""Seconds between two looks."""

_SILENCE_S = 1.25
_SILENCE_FORWARDS = 4.0
"""A node with an answer due may be silent for this many seconds plus this many of its longest computations."""

_LONGEST_SILENCE_S = 30.0
"""The longest silence in seconds, whatever the computations take, because the node itself says how long they take."""

_LATE_S = 10.0
_LATE_FACTOR = 10.0
"""A step may take this many seconds, and this many times as long as it should."""

_ASK_S = 0.4
"""A node that has a step and is silent for this many seconds is asked whether it lives."""

_IDLE_ASK_S = 5.0
_LONGEST_PENALTY_S = 60.0
_MOST_FAILURES = 5
_FORGIVEN_S = 120.0
"""Seconds without another stall after which a node is as good as new."""


_MOST_NAPS = 256
_SHORTEST_NAP_S = 0.01


class Naps:
    """The times in which the coordinator itself was held up and read nothing, so that no node may be blamed for them.

    They are measured: a look that comes late tells how long the event loop was busy with something else.
    """

    def __init__(self) -> None:
        self._looked: float | None = None
        self._naps: deque[tuple[float, float]] = deque(maxlen=_MOST_NAPS)
        """The end and the seconds of each."""

    def look(self, now: float) -> bool:
        """Note the time of a look. Returns whether it comes so late that nobody can be judged yet."""
        held_s = 0.0 if self._looked is None else now - self._looked - LOOK_S
        self._looked = now
        if held_s > _SHORTEST_NAP_S:
            self._naps.append((now, held_s))
        return held_s > 3 * LOOK_S

    def after(self, time: float) -> float:
        """The seconds of all naps since this time."""
        return sum(min(seconds, end - time) for end, seconds in self._naps if end > time)


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a ping to this node."""

    node: str


@dataclass(slots=True)
class _Record:
    """The record of one node. asked: when a ping was sent. stalled: since when it is passed over. struck: the latest
    stall.

    failures: steps in a row that it could not run.
    """

    heard: float
    asked: float | None = None
    stalled: float | None = None
    struck: float | None = None
    failures: int = 0
    strikes: int = 0

    @property
    def penalty_s(self) -> float:
        return min(_LONGEST_PENALTY_S, 2.0 ** (self.strikes - 1))


class Heartbeat:
    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._naps = Naps()

    def __len__(self) -> int:
        return len(self._records)

    def heard(self, node: str, now: float) -> None:
        """Note that a frame of the node has arrived."""
        record = self._record(node, now)
        record.heard, record.asked = now, None

    def ran(self, node: str, now: float, *, failed: bool) -> None:
        """Note that a step of the node has ended."""
        record = self._record(node, now)
        record.failures = record.failures + 1 if failed else 0

    def _record(self, node: str, now: float) -> _Record:
        record = self._records.get(node)
        if record is None:  # not setdefault, which would make a record for every frame
            record = self._records[node] = _Record(now)
        return record

    def forget(self, node: str) -> None:
        self._records.pop(node, None)

    def look(
        self, now: float, awaited: Iterable[Awaited], measures: Mapping[str, Measure]
    ) -> list[Stalled | Revived | Ask]:
        """Judge the nodes that serve (those with a measure) by the steps that are under way."""
        if self._naps.look(now):  # what the nodes said meanwhile has not been read yet
            return []
        steps: dict[str, list[Awaited]] = {}
        for step in awaited:
            steps.setdefault(step.node, []).append(step)
        found: list[Stalled | Revived | Ask] = []
        for node, measure in measures.items():
            record = self._record(node, now)
            found += self._judge(node, record, steps.get(node, []), measure, now)
        return found

    def _judge(
        self, node: str, record: _Record, steps: list[Awaited], measure: Measure, now: float
    ) -> list[Stalled | Revived | Ask]:
        found: list[Stalled | Revived | Ask] = []
        if record.stalled is not None:
            if record.heard > record.stalled and now - record.stalled >= record.penalty_s:
                record.stalled = None
                found.append(Revived(node))
        elif reason := _complaint(record, steps, measure, now, self._naps.after):
            forgiven = record.struck is None or now - record.struck > _FORGIVEN_S
            record.strikes = 1 if forgiven else record.strikes + 1
            record.stalled = record.struck = now
            found.append(Stalled(node, reason))
        pause_s = _ASK_S if steps or record.stalled is not None else _IDLE_ASK_S
        if record.asked is None and now - record.heard >= pause_s:
            record.asked = now
            found.append(Ask(node))
        return found


def _complaint(
    record: _Record, steps: list[Awaited], measure: Measure, now: float, slept_after: Callable[[float], float]
) -> str | None:
    """The reason why the node is to be passed over, or None. slept_after: the coordinator's own naps since a time."""
    if record.failures >= _MOST_FAILURES:
        record.failures = 0
        return f"it could not run {_MOST_FAILURES} steps in a row"
    due = min([step.sent for step in steps] + ([record.asked] if record.asked is not None else []), default=now)
    since = max(record.heard, due)
    silent_s = now - since - slept_after(since)
    if silent_s > _SILENCE_S + min(_SILENCE_FORWARDS * measure.forward_s, _LONGEST_SILENCE_S):
        return f"it has been silent for {silent_s:.1f} s"
    expected_s = sum(measure.forward_s if step.rows == 1 else step.rows * measure.row_s for step in steps)
    sent = min((step.sent for step in steps), default=now)
    late_s = now - sent - slept_after(sent)
    if late_s > _LATE_S + _LATE_FACTOR * expected_s:
        return f"a step has taken {late_s:.1f} s"
    return None
