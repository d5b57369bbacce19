"""Records what the stages of some sessions were given and what they passed on, as the coordinator saw it. Without I/O.

All rows pass through the coordinator, so no node can show an auditor other rows than those that it passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from potluck.coordinator.relay.evidence import EVIDENCE_BYTES, Asked, Evidence, size_of
from potluck.coordinator.relay.forward import Forward
from potluck.types import MAX_STEP_ROWS, RowFormat, Stage
from potluck.wire.rows import split_rows, split_scores

Payload = bytes | memoryview

_LIMIT = 64 << 20
"""The most bytes of all records together."""


@dataclass(slots=True)
class _Record:
    """The record of one stage of one session, from position 0 on. want: rows to be judged, among those from `before`
    on.

    final: the rows are candidates. told: rows that could be judged when it was last shown. shown: its length then.
    nbytes: the bytes of all its rows. steps: for each row that was given, the number of its step.
    """

    stage: Stage
    stages: int
    want: int
    final: bool
    before: int = 0
    told: int = 0
    shown: int = 0
    nbytes: int = 0
    given: list[bytes] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    asks: list[Asked | None] = field(default_factory=list)
    gave: list[bytes | None] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return _judged(self.gave[self.before :]) >= self.want

    @property
    def room(self) -> int:
        """How many more rows are of use. A last stage is asked about few of them, and nobody knows about which."""
        if self.nbytes >= EVIDENCE_BYTES:
            return 0
        return MAX_STEP_ROWS if self.final else self.before + self.want - len(self.given)

    def truncate(self, length: int) -> int:
        """Forget positions from `length` on. Returns the bytes that this frees."""
        freed = size_of(self.given[length:]) + size_of(self.gave[length:])
        del self.given[length:], self.steps[length:], self.asks[length:], self.gave[length:]
        self.told = min(self.told, _judged(self.gave))
        return freed

    def evidence(self, session: int) -> Evidence | None:
        """The evidence up to the last row that can be judged; None if everything was shown before."""
        judged = [position for position, row in enumerate(self.gave) if row is not None]
        if len(judged) <= self.told:
            return None
        self.told = len(judged)
        self.shown = end = judged[-1] + 1
        return Evidence(
            session,
            self.stage,
            self.stages,
            tuple(self.given[:end]),
            tuple(self.gave[:end]),
            tuple(self.asks[:end]),
        )


def _judged(rows: Sequence[bytes | None]) -> int:
    return sum(row is not None for row in rows)


class Witness:
    """Keeps records of the sessions that it is told to watch, at most `limit` bytes; the oldest ones go first.

    on_evidence: receives each record that is complete, or as far as it came when an answer ends or its stage is lost.
    """

    def __init__(
        self, form: RowFormat, limit: int = _LIMIT, on_evidence: Callable[[Evidence], None] = lambda _: None
    ) -> None:
        self._on_evidence = on_evidence
        self._form = form
        self._limit = limit
        self._records: dict[int, dict[int, _Record]] = {}
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """The bytes of the rows that it keeps."""
        return self._nbytes

    def watch(self, session: int, route: Sequence[Stage], wants: Mapping[int, int], before: int = 0) -> None:
        """Keep this many rows of these stages (their places in the route), which are given the session from 0 on now.

        before: rows that are not counted, because stages compute them in place of lost ones, mostly without an answer.
        """
        records = {
            place: _Record(route[place], len(route), want, place == len(route) - 1, before)
            for place, want in wants.items()
        }
        for place, record in records.items():
            watched = self._records.setdefault(session, {})
            if place in watched:  # the stage is its own heir, or computes anew what it had from a liar
                self._finish(session, watched[place])
            watched[place] = record

    def given(self, place: int, step: Forward, payload: Payload) -> None:
        """Note that a step goes to a stage."""
        record = self._record(step.session, place)
        if record is None:
            return
        if step.position < len(record.given):
            self._count(record, -record.truncate(step.position))
        count = min(step.rows, record.room)
        if step.position != len(record.given) or count < 1:
            return
        form = RowFormat.F32 if place == 0 else self._form
        rows = split_rows(payload, step.rows, form)[:count]
        record.given += rows
        record.steps += [step.step] * len(rows)
        asks = [Asked(step.top, ask) for ask in step.asks] if record.final else []
        record.asks += [*[None] * (step.rows - len(asks)), *asks][:count]
        self._count(record, size_of(rows))

    def gave(self, place: int, step: Forward, payload: Payload) -> None:
        """Note that a stage passed hidden rows on."""
        record = self._record(step.session, place)
        if record is not None:
            self._note(step, place, record, list(split_rows(payload, step.rows, self._form)))

    def recalled(self, place: int, step: Forward, payload: Payload) -> None:
        """Note that a stage sent rows once more, for an heir of the next one. It answers for these instead."""
        record = self._record(step.session, place)
        if record is None:
            return
        held = record.gave[step.position : step.position + step.rows]
        rows = split_rows(payload, step.rows, self._form)[: len(held)]
        if rows != held:
            record.gave[step.position : step.position + len(held)] = rows
            record.told = 0
            self._count(record, size_of(rows) - size_of(held))

    def scored(self, place: int, step: Forward, counts: Sequence[int], payload: Payload) -> None:
        """Note that the last stage gave candidates."""
        record = self._record(step.session, place)
        if record is not None:
            self._note(step, place, record, [*[None] * (step.rows - len(counts)), *split_scores(payload, counts)])

    def kept(self, place: int, step: Forward) -> None:
        """Note that a stage keeps a step, and answers nothing that could be judged."""
        record = self._record(step.session, place)
        if record is not None:
            self._note(step, place, record, [None] * step.rows)

    def pause(self, session: int) -> None:
        """Pause at the end of an answer. The next turn of the chat may continue in the same session, and so does the
        watch.

        An auditor computes everything from position 0 on each time, so evidence is shown again only if it has doubled.
        """
        for record in self._records.get(session, {}).values():
            if len(record.gave) >= 2 * record.shown:
                self._show(session, record)

    def reroute(self, session: int, route: Sequence[Stage]) -> None:
        """Continue on this route. Nothing more comes from stages that are no longer on it."""
        places = {stage: place for place, stage in enumerate(route)}
        kept: dict[int, _Record] = {}
        for record in self._records.pop(session, {}).values():
            if record.stage in places:
                kept[places[record.stage]], record.stages = record, len(route)
            else:
                self._finish(session, record)
        if kept:
            self._records[session] = kept

    def close(self, session: int) -> None:
        """End the watch of a session that has ended."""
        for record in self._records.pop(session, {}).values():
            self._finish(session, record)

    def _record(self, session: int, place: int) -> _Record | None:
        records = self._records.get(session)
        return None if records is None else records.get(place)

    def _note(self, step: Forward, place: int, record: _Record, rows: list[bytes | None]) -> None:
        """Note what a stage answered to a step, but not for those rows that were given anew meanwhile.

        The answer to a guess that was wrong may come after the right token was given in its place.
        """
        if step.position != len(record.gave):
            return
        rows = rows[: record.steps[step.position : step.position + step.rows].count(step.step)]
        record.gave += rows
        self._count(record, size_of(rows))
        if record.done and self._record(step.session, place) is record:
            del self._records[step.session][place]
            self._finish(step.session, record)

    def _finish(self, session: int, record: _Record) -> None:
        self._nbytes -= record.nbytes
        self._show(session, record)

    def _show(self, session: int, record: _Record) -> None:
        evidence = record.evidence(session)
        if evidence is not None:
            self._on_evidence(evidence)

    def _count(self, record: _Record, nbytes: int) -> None:
        """Note that the record has grown by this much, or become smaller."""
        record.nbytes += nbytes
        self._nbytes += nbytes
        while self._nbytes > self._limit:
            records = self._records.pop(next(iter(self._records)))
            self._nbytes -= sum(record.nbytes for record in records.values())
