"""Decides which sessions are audited, by whom, and what follows. A machine without I/O: events in, actions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import SystemRandom

from potluck.coordinator.audits.case import Agree, Case, Convicted, Dropped, Holder, Outcome, Passed, Slipped, Undecided
from potluck.coordinator.audits.lottery import FIRST_SESSIONS, MOST_KNOWN, Lottery
from potluck.coordinator.recent import Recent
from potluck.coordinator.relay.evidence import Answer, Evidence

_secret = SystemRandom().random
"""Random numbers that nobody can foretell from what they see."""

_MOST_CASES = 32
"""The most cases that wait. More evidence than auditors can look at is not kept."""

_MOST_BYTES = 128 << 20
"""The most bytes of the evidence of waiting cases."""

_MOST_AT_ONCE = 2
"""The most audits at once, because audits are the least of the nodes' work."""

_STRIKE_AUDITS = 100
"""A node that slips a second time within this number of its audits was not unlucky: it is wrong now and then."""


@dataclass(slots=True)
class Record:
    """The results of a node's audits, by its key. strikes: the numbers of those in which it slipped."""

    passed: int = 0
    failed: int = 0
    strikes: list[int] = field(default_factory=list)

    @property
    def audits(self) -> int:
        return self.passed + self.failed


@dataclass(frozen=True, slots=True)
class Audited:
    """An audit of the node with this key has ended, and found it right or wrong."""

    key: bytes
    passed: bool


@dataclass(frozen=True, slots=True)
class Settle:
    """The node with this key keeps what it has earned so far: an audit found it right, or there are no audits."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Forfeit:
    """The node with this key was caught, and what it has earned since its latest audit is not paid."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The node and all others with its key are no longer used, for this reason."""

    node: str
    key: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Suspect:
    """These nodes contradict what others compute, and cannot be convicted. This is for the log."""

    nodes: tuple[str, ...]
    reason: str


Action = Audited | Settle | Forfeit | Quarantine | Suspect


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """This node is to compute the case's rows."""

    case: Case
    holder: Holder


class Audits:
    """All audits. rate: the share of all stage-steps; 0 believes everybody. agree: as in `case`. chance: uniform in [0,
    1).
    """

    def __init__(self, rate: float, agree: Agree, chance: Callable[[], float] = _secret) -> None:
        self._rate = rate
        self._agree = agree
        self._chance = chance
        self._lottery = Lottery(rate, chance)
        self._cases: list[Case] = []
        self._running: list[Assignment] = []
        self._records = Recent[bytes, Record](Record, MOST_KNOWN)
        self.totals = Record()
        """The totals of all nodes, including those that are forgotten."""
        self.undecided = 0
        """The number of audits that ended in contradiction."""

    def record(self, key: bytes) -> Record:
        """The record of the node with this key."""
        return self._records[key]

    def is_credible(self, key: bytes) -> bool:
        """Whether the node with this key has passed its first audits and no case is open. Without audits all nodes
        have.
        """
        open_cases = any(case.audited.key == key for case in self._cases)
        return not self._rate or (self.record(key).passed >= FIRST_SESSIONS and not open_cases)

    def opened(self, keys: Sequence[bytes], before: Sequence[int], most: int) -> dict[int, int]:
        """Draw the audits of a session that opens on a route of these nodes.

        keys: an empty one means that nobody could audit the node, or that no session begins there.
        before: for each node, the rows before the first that can be judged.
        Returns how many rows to judge of which of its stages; no audit takes more than `most`.
        """
        drawn = {
            place: min(self._lottery.draw(key, skipped), most - skipped)
            for place, (key, skipped) in enumerate(zip(keys, before, strict=True))
            if key and skipped < most
        }
        return {place: rows for place, rows in drawn.items() if rows}

    def stepped(self, key: bytes, *rows: int) -> list[Action]:
        """Note that the node with this key has computed steps of sessions, with so many rows each."""
        self._lottery.stepped(key, *rows)
        return [] if self._rate else [Settle(key)]

    def collected(self, evidence: Evidence, audited: Holder) -> None:
        """Take the evidence that was drawn, or as much of it as there will be."""
        waiting = sum(case.evidence.nbytes for case in self._cases)
        if len(self._cases) >= _MOST_CASES or waiting + evidence.nbytes > _MOST_BYTES:
            self._lottery.redraw(audited.key)
            return
        self._lottery.audited(audited.key, len(evidence.given))
        self._cases.append(Case(evidence, audited, self._agree))

    def assign(self, holders: Callable[[Evidence], Sequence[Holder]]) -> tuple[list[Assignment], list[Action]]:
        """The computations to do now. holders: returns those of a stage, the audited one among them. Contradictions
        come first.
        """
        started, actions = list[Assignment](), list[Action]()
        for case in sorted(self._cases, key=lambda case: -len(case.claims)):
            if any(running.case is case for running in self._running):
                continue
            if len(self._running) == _MOST_AT_ONCE:
                break
            found = self._next(case, holders)
            if not isinstance(found, Holder):
                actions += self._close(case, found)
            elif not any(running.holder.node == found.node for running in self._running):
                started.append(Assignment(case, found))
                self._running.append(started[-1])
        return started, actions

    def _next(self, case: Case, holders: Callable[[Evidence], Sequence[Holder]]) -> Holder | Outcome:
        while (holder := case.choose(holders(case.evidence), self._chance)) is None:
            if (outcome := case.nobody()) is not None:
                return outcome
        return holder

    def answered(self, assignment: Assignment, answer: Answer | None) -> list[Action]:
        """Take the end of an assignment. None means that the node could not compute it, or has left."""
        self._running.remove(assignment)
        case, holder = assignment.case, assignment.holder
        if case not in self._cases:  # the audited node was convicted meanwhile
            return []
        outcome = case.failed(holder) if answer is None else case.answered(holder, answer)
        return [] if outcome is None else self._close(case, outcome)

    def _close(self, case: Case, outcome: Outcome) -> list[Action]:
        self._cases.remove(case)
        match outcome:
            case Passed():
                return self._passed(case.audited)
            case Slipped(holder):
                return [*self._others_passed(case, holder), *self._slipped(holder, case)]
            case Convicted(holder):
                convicted = self._convict(holder, f"{_told(case)} were wrong twice")
                return [*self._others_passed(case, holder), self._failed(holder), *convicted]
            case Undecided(holders):
                self.undecided += 1
                for holder in holders:
                    self._lottery.watch(holder.key)
                return [Suspect(tuple(holder.node for holder in holders), f"{_told(case)} differ")]
            case Dropped():
                self._lottery.redraw(case.audited.key)
                return []

    def _passed(self, holder: Holder) -> list[Action]:
        self.record(holder.key).passed += 1
        self.totals.passed += 1
        return [Audited(holder.key, passed=True), Settle(holder.key)]

    def _failed(self, holder: Holder) -> Audited:
        self.record(holder.key).failed += 1
        self.totals.failed += 1
        return Audited(holder.key, passed=False)

    def _others_passed(self, case: Case, guilty: Holder) -> list[Action]:
        """Note that an auditor was wrong, so that the audited node was right."""
        return self._passed(case.audited) if guilty.key != case.audited.key else []

    def _slipped(self, holder: Holder, case: Case) -> list[Action]:
        failed, record = self._failed(holder), self.record(holder.key)
        again = any(record.audits - number < _STRIKE_AUDITS for number in record.strikes)
        record.strikes.append(record.audits)
        if again:
            return [failed, *self._convict(holder, f"{_told(case)} were wrong, and not for the first time")]
        self._lottery.watch(holder.key)
        return [failed, Suspect((holder.node,), f"{_told(case)} were wrong once")]

    def _convict(self, holder: Holder, reason: str) -> list[Action]:
        self._cases = [case for case in self._cases if case.audited.key != holder.key]
        return [Quarantine(holder.node, holder.key, reason), Forfeit(holder.key)]


def _told(case: Case) -> str:
    what = "candidates" if case.evidence.final else "hidden rows"
    return f"its {what} of layers {case.evidence.stage.span}, {len(case.evidence.given)} positions,"


def no_audits() -> Audits:
    """Audits that believe everybody."""
    return Audits(0.0, lambda *_: True)
