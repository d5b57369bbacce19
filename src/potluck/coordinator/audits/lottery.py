"""Draws when each node is audited next, and how far, as a session opens, so that the node cannot know. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from potluck.coordinator.recent import Recent

FIRST_SESSIONS = 3
"""The first sessions of a newcomer, and the next ones of a suspected node, which are all audited."""

FREE_ROWS = 24
"""The rows that an audit computes for its fixed price. Rows beyond these are owed, and paid back before the next audit.
"""

_PRICE = 1.6
"""The least cost of an audit in steps. Its rows are computed together, but they are more than one."""

_TOGETHER = 5
"""This many rows that are computed together take about as long as a single one."""

_REPAID = 20.0
"""The rows that a step of a single row pays back, times the rate: at 0.02 an audit of 100 rows is paid by 190 steps."""

_SPREAD = 0.2
"""The spread of the intervals around their mean, so that nobody can count along and no interval is long."""

MOST_KNOWN = 10_000
"""The most keys that are remembered, because keys cost nothing. A node that returns after this many others is a
newcomer."""


@dataclass(slots=True)
class _Ticket:
    """The state of one node. steps: since its latest audit. due: steps until the next one. close: sessions to audit
    all.

    owed: rows that audits had beyond the free ones.
    """

    due: float
    steps: int = 0
    close: int = FIRST_SESSIONS
    owed: float = 0.0


class Lottery:
    """Spends `rate` of each node's stage-steps on auditing it; 0 means none.

    A coin for each step could leave a node unseen for long. Instead, a node's turn comes at intervals of its own steps
    that are drawn anew each time. So is the number of rows, 1 + 1 / u of a uniform u. It is mostly small, which is
    enough to see a node that always lies, but every position has its chance. Rows beyond FREE_ROWS are owed, and paid
    back by the node's steps. As long as there are debts, audits are short. If they cannot be short, as for last stages
    behind long prompts, only newcomers are audited.

    chance: uniform random numbers in [0, 1).
    """

    def __init__(self, rate: float, chance: Callable[[], float]) -> None:
        self._rate = rate
        self._chance = chance
        self._tickets = Recent[bytes, _Ticket](lambda: _Ticket(self._interval()), MOST_KNOWN)

    def stepped(self, key: bytes, *rows: int) -> None:
        """Note that the node has computed steps with so many rows each."""
        if self._rate:
            ticket = self._tickets[key]
            ticket.steps += len(rows)
            if ticket.owed:
                repaid = _REPAID * self._rate * sum(max(1.0, count / _TOGETHER) for count in rows)
                ticket.owed = max(0.0, ticket.owed - repaid)

    def draw(self, key: bytes, before: int) -> int:
        """The number of rows to judge of a session that opens on this node now; 0 means none.

        before: rows that have to be computed before the first one that can be judged.
        """
        if not self._rate:
            return 0
        ticket, rows = self._tickets[key], 1 + int(1 / (1 - self._chance()))
        free = FREE_ROWS - before
        if not ticket.close and (ticket.steps < ticket.due or (ticket.owed and free < 1)):
            return 0
        rows = max(rows, free) if ticket.close else rows
        rows = min(rows, free) if ticket.owed and free >= 1 else rows
        ticket.close = max(0, ticket.close - 1)
        ticket.steps, ticket.due = 0, self._interval()
        return rows

    def audited(self, key: bytes, rows: int) -> None:
        """Note that an audit of the node begins, in which this many rows are computed, judged or not."""
        self._tickets[key].owed += max(0, rows - FREE_ROWS)

    def redraw(self, key: bytes) -> None:
        """Note that an audit came to nothing: the node's next session takes its place."""
        if self._rate:
            self._tickets[key].due = 0.0

    def watch(self, key: bytes, sessions: int = FIRST_SESSIONS) -> None:
        """Audit all of the node's next sessions."""
        if self._rate:
            self._tickets[key].close = sessions

    def _interval(self) -> float:
        return (1 - _SPREAD + 2 * _SPREAD * self._chance()) * _PRICE / self._rate
