"""When each node is audited next, and how far: drawn when a session opens, so that the node cannot know. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from potluck.coordinator.recent import Recent

FIRST_SESSIONS = 3
"""A newcomer's first sessions are all audited, as are the next ones of a node that is suspected."""

FREE_ROWS = 24
"""An audit computes so many rows for its fixed price. What is beyond that is owed, and paid back before the next."""

_PRICE = 1.6
"""What an audit costs at least, in steps: its rows are computed together, but they are more than one."""

_TOGETHER = 5
"""So many rows that are computed together take as long as a lone one, more or less."""

_REPAID = 20.0
"""Rows that a lone one's step pays back, times the rate: at 0.02 an audit of 100 rows is paid by 190 steps."""

_SPREAD = 0.2
"""Of the intervals around their mean: nobody can count along, and none is long."""

MOST_KNOWN = 10_000
"""Keys cost nothing. A node that comes back after so many others is a newcomer again, and audited as one."""


@dataclass(slots=True)
class _Ticket:
    """Of one node. steps: since its latest audit. due: after how many the next one is. close: sessions to audit all.

    owed: rows that audits had beyond the free ones.
    """

    due: float
    steps: int = 0
    close: int = FIRST_SESSIONS
    owed: float = 0.0


class Lottery:
    """`rate` of each node's stage-steps are spent on auditing it; 0: none.

    Not by a coin for each step: a node could then go unseen for long. Its turn comes at intervals of its own steps that
    are drawn anew each time. So is the number of rows, 1 + 1 / u of a uniform u: mostly a few, which are enough to see
    whoever lies always; but every position has its chance. What that takes beyond FREE_ROWS is owed, and paid back by
    the node's steps: as long as there are debts, audits are short, and where they cannot be, as at last stages behind
    long prompts, there are none but of newcomers.

    chance: uniform random numbers in [0, 1).
    """

    def __init__(self, rate: float, chance: Callable[[], float]) -> None:
        self._rate = rate
        self._chance = chance
        self._tickets = Recent[bytes, _Ticket](lambda: _Ticket(self._interval()), MOST_KNOWN)

    def stepped(self, key: bytes, rows: int) -> None:
        """The node has computed a step of so many rows."""
        if self._rate:
            ticket = self._tickets[key]
            ticket.steps += 1
            ticket.owed = max(0.0, ticket.owed - _REPAID * self._rate * max(1.0, rows / _TOGETHER))

    def draw(self, key: bytes, before: int) -> int:
        """How many rows to judge of a session that opens on this node now; 0: none.

        before: so many rows have to be computed before the first that can be judged.
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
        """An audit of the node begins, in which so many rows are computed, judged or not."""
        self._tickets[key].owed += max(0, rows - FREE_ROWS)

    def redraw(self, key: bytes) -> None:
        """The audit came to nothing: the node's next session takes its place."""
        if self._rate:
            self._tickets[key].due = 0.0

    def watch(self, key: bytes, sessions: int = FIRST_SESSIONS) -> None:
        """Audit all of the node's next sessions."""
        if self._rate:
            self._tickets[key].close = sessions

    def _interval(self) -> float:
        return (1 - _SPREAD + 2 * _SPREAD * self._chance()) * _PRICE / self._rate
