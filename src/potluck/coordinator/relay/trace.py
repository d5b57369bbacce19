"""Shows where the steps spent their time: the latest hops as a timeline and as a sentence. Pure: times come in."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import islice, pairwise
from statistics import fmean
from typing import Any, NamedTuple

from msgspec import Struct

from potluck.coordinator.relay.forward import Forward
from potluck.types import Span, Stage

MAX_HOPS = 20_000
"""The most hops that are kept: about 5 MB, and 6,000 tokens of one session on three nodes."""

_SESSIONS = 1
"""The process number of the sessions in the timeline; those of the nodes follow."""

Event = dict[str, Any]


class Hop(Struct, frozen=True, gc=False):
    """A step's stay at one stage, sent there and received back by the coordinator's clock, in seconds.

    index: that of the stage, among `stages`. guessed: as in Forward. queue_s, compute_s: as the node says.
    void: other tokens came while the step was there, so that it ended when it had not been received back.
    gc=False: twenty thousand of them live at any time, and none can be part of a cycle.
    """

    session: int
    step: int
    index: int
    stages: int
    node: str
    span: Span
    rows: int
    position: int
    sent: float
    received: float
    queue_s: float
    compute_s: float
    guessed: bool = False
    void: bool = False

    @classmethod
    def of(
        cls,
        step: Forward,
        index: int,
        stages: int,
        stage: Stage,
        sent: float,
        received: float,
        queue_s: float = 0.0,
        compute_s: float = 0.0,
        *,
        void: bool = False,
    ) -> Hop:
        """The step's stay at this stage."""
        return cls(  # by position: keywords take a microsecond more, of the fifty that a frame takes
            step.session,
            step.step,
            index,
            stages,
            stage.node,
            stage.span,
            step.rows,
            step.position,
            sent,
            received,
            queue_s,
            compute_s,
            step.guessed,
            void,
        )

    @property
    def total_s(self) -> float:
        return self.received - self.sent

    @property
    def shares(self) -> tuple[float, float, float]:
        """The seconds in the queue, in computation and on the wire, which always add up to the total."""
        compute = min(self.compute_s, self.total_s)
        queue = min(self.queue_s, self.total_s - compute)
        return queue, compute, max(self.total_s - compute - queue, 0.0)


class Trace:
    """The latest hops of all sessions, in the order in which they ended."""

    def __init__(self, size: int = MAX_HOPS) -> None:
        self._hops: deque[Hop] = deque(maxlen=size)
        self.count = 0
        """The number of all hops so far, including those that are forgotten."""

    def add(self, hop: Hop) -> None:
        self._hops.append(hop)
        self.count += 1

    def hops(self, after: int = 0) -> list[Hop]:
        """The hops without the first `after` of all hops so far."""
        forgotten = self.count - len(self._hops)
        return list(islice(self._hops, max(0, after - forgotten), None))


class Kind(StrEnum):
    """A kind of step. token, guess: one row whose token was known when it was sent, or was guessed and came. void: a
    guess that did not come, or that followed one.
    """

    PROMPT = "prompt"
    TOKEN = "token"
    GUESS = "guess"
    VOID = "void"


class Ended(NamedTuple):
    """A step that has ended. hops: in the order of its stages; of a void one, those that are known."""

    hops: list[Hop]
    kind: Kind

    @property
    def sent(self) -> float:
        return self.hops[0].sent

    @property
    def ended(self) -> float:
        return self.hops[-1].received

    @property
    def end(self) -> int:
        """The position after its rows."""
        return self.hops[0].position + self.hops[0].rows


def ended_steps(hops: Iterable[Hop]) -> list[Ended]:
    """The steps that have passed through all stages or became void. Of the former, all hops are here."""
    steps: dict[int, dict[int, list[Hop]]] = defaultdict(lambda: defaultdict(list))
    for hop in hops:
        steps[hop.session][hop.step].append(hop)
    return [step for own in steps.values() for step in _judged([own[number] for number in sorted(own)])]


def _judged(steps: Iterable[list[Hop]]) -> list[Ended]:
    """The ended ones of one session's steps, which come in the order of their numbers."""
    known: list[Ended] = []
    void: list[Ended] = []
    for step in steps:
        step.sort(key=lambda hop: hop.index)
        if step[-1].void:
            void.append(Ended(step, Kind.VOID))
        elif len(step) == step[0].stages:
            ended = Ended(step, _kind(step[0]))
            if ended.kind is Kind.TOKEN:
                void += _overtaken(known, step[0].position)
            known.append(ended)
    return known + void


def _overtaken(known: list[Ended], position: int) -> list[Ended]:
    """The guesses that are taken from the end of these steps because another token than theirs came at this position.

    While that token is chosen, some of them may still be answered, so that no node has to be told that they are void.
    """
    count = len(known)
    while count and known[count - 1].kind is Kind.GUESS and known[count - 1].hops[0].position >= position:
        count -= 1
    # Where the answer was asked for again, the guesses were right: they follow a token that comes later than this one.
    if not count or known[count - 1].end != position:
        return []
    overtaken = [Ended(step.hops, Kind.VOID) for step in known[count:]]
    del known[count:]
    return overtaken


def _kind(hop: Hop) -> Kind:
    """The kind of a whole step with this hop, if no other token came."""
    if hop.rows > 1:
        return Kind.PROMPT
    return Kind.GUESS if hop.guessed else Kind.TOKEN


def chrome(hops: Sequence[Hop], names: Mapping[str, str]) -> dict[str, Any]:
    """The hops in the trace event format that Perfetto and chrome://tracing show. names: those of the nodes.

    There is one process for the sessions, with an event for each step that has ended, and one for each node.
    """
    hops = sorted(hops, key=lambda hop: hop.sent)
    zero = hops[0].sent if hops else 0.0
    sessions = _Process(_SESSIONS, "sessions")
    for step in sorted(ended_steps(hops), key=lambda step: step.sent):
        sessions.draw(step.hops[0], [_nanoseconds(step.sent, zero), _nanoseconds(step.ended, zero)], (step.kind,))
    nodes = _node_processes(hops, names)
    for hop in hops:
        if hop.void:  # nobody knows what happened to it
            nodes[hop.node].draw(hop, [_nanoseconds(hop.sent, zero), _nanoseconds(hop.received, zero)], ("wire",))
        else:
            nodes[hop.node].draw(hop, _bounds(hop, zero), ("wire", "queue", "compute", "wire"))
    events = [event for process in (sessions, *nodes.values()) for event in process.events]
    return {"traceEvents": events if hops else [], "displayTimeUnit": "ms"}


class _Process:
    """One process of the timeline, with a row for each session, and more if steps of a session overlap.

    Viewers take overlapping events of one row for nested ones.
    """

    def __init__(self, number: int, name: str) -> None:
        self._number = number
        self._ends: dict[int, list[int]] = defaultdict(list)
        self._rows: dict[tuple[int, int], int] = {}
        self.events = [
            self._label("process_name", 0, name=name),
            self._label("process_sort_index", 0, sort_index=number),
        ]

    def _label(self, kind: str, row: int, **args: object) -> Event:
        return {"ph": "M", "name": kind, "pid": self._number, "tid": row, "args": args}

    def draw(self, hop: Hop, bounds: Sequence[int], names: Iterable[str]) -> None:
        """Draw events end to end, the first from bounds[0] to bounds[1], in nanoseconds. Empty ones are left out.

        The times are whole nanoseconds, because one event's end must be exactly the next one's start.
        """
        row = self._free_row(hop.session, bounds[0], bounds[-1])
        args = {"session": hop.session, "step": hop.step, "rows": hop.rows, "position": hop.position}
        for name, (start, end) in zip(names, pairwise(bounds), strict=True):
            if end > start:
                times = {"ts": start / 1000, "dur": (end - start) / 1000}
                self.events.append({"ph": "X", "name": name, "pid": self._number, "tid": row, **times, "args": args})

    def _free_row(self, session: int, start: int, end: int) -> int:
        ends = self._ends[session]
        lane = next((lane for lane, busy in enumerate(ends) if busy <= start), len(ends))
        ends[lane:] = [end, *ends[lane + 1 :]]
        if (session, lane) not in self._rows:
            self._rows[session, lane] = row = len(self._rows) + 1
            self.events.append(self._label("thread_name", row, name=f"session {session}"))
        return self._rows[session, lane]


def _node_processes(hops: Sequence[Hop], names: Mapping[str, str]) -> dict[str, _Process]:
    """The processes of the nodes, in the order of their layers."""
    spans: dict[str, Span] = {}
    for hop in hops:  # a stage may end before its node's span does: the longest is nearest to it
        spans[hop.node] = max(spans.get(hop.node, hop.span), hop.span)
    return {
        node: _Process(number, f"{_name(node, names)}: {_layers(spans[node]).lower()}")
        for number, node in enumerate(sorted(spans, key=lambda node: (spans[node], node)), _SESSIONS + 1)
    }


def _bounds(hop: Hop, zero: float) -> list[int]:
    """The times in nanoseconds from `zero` at which a hop's wire, queue, compute and wire begin, and its end.

    Half of the wire time goes before and half after, because the clocks of two machines do not say more.
    """
    queue, compute, wire = hop.shares
    arrival = hop.sent + wire / 2
    times = (hop.sent, arrival, arrival + queue, arrival + queue + compute, hop.received)
    bounds = [_nanoseconds(time, zero) for time in times]
    return [min(bound, bounds[-1]) for bound in bounds]  # sums of floats may exceed the end by a hair


def _nanoseconds(time: float, zero: float) -> int:
    return round((time - zero) * 1e9)


def summary(hops: Sequence[Hop], names: Mapping[str, str]) -> str:
    """A sentence that names the slowest stage of the steps of one token, or of all steps if there are none."""
    whole = [step for step in ended_steps(hops) if step.kind is not Kind.VOID]
    tokens = [step for step in whole if step.kind is Kind.TOKEN]
    stages: dict[tuple[str, Span], list[tuple[Hop, float]]] = defaultdict(list)
    for step in tokens or whole:
        for hop in step.hops:
            stages[hop.node, hop.span].append((hop, step.ended - step.sent))
    if not stages:
        return "No step has passed through all layers yet."
    (node, span), passed = max(stages.items(), key=lambda item: fmean(hop.total_s for hop, _ in item[1]))
    step_s = fmean(seconds for _, seconds in passed)
    shares = [fmean(share) for share in zip(*(hop.shares for hop, _ in passed), strict=True)]
    part = f"{100 * sum(shares) / step_s:.0f}" if step_s else "100"
    queue, compute, wire = (f"{1000 * share:.1f}" for share in shares)
    return (
        f"{_layers(span)} on {_name(node, names)} {'take' if len(span) > 1 else 'takes'} {part} % of a "
        f"{'token' if tokens else 'step'}'s time: {1000 * sum(shares):.1f} of {1000 * step_s:.1f} ms "
        f"(compute {compute}, queue {queue}, wire {wire})."
    )


def _layers(span: Span) -> str:
    return f"Layers {span}" if len(span) > 1 else f"Layer {span}"


def _name(node: str, names: Mapping[str, str]) -> str:
    """The name of a node. One that has left keeps only its number."""
    return names.get(node, f"{node} (left)")
