"""When each node is audited next, and how far: drawn when a session opens, so that the node cannot know. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FIRST_SESSIONS = 3
"""A newcomer's first sessions are all audited, as are the next ones of a node that is suspected."""

FIRST_ROWS = 32
"""So far at least."""

STEP_ROWS = 16
"""An audit of up to so many rows counts as one step of the audited node. Longer ones count by their rows: an auditor
computes a prompt's rows several times as fast as a generated token's, but not for nothing."""


@dataclass(slots=True)
class _Ticket:
    """Of one node. steps: since its latest audit. due: after how many the next one is. close: sessions to audit all."""

    due: float
    steps: int = 0
    close: int = FIRST_SESSIONS


class Lottery:
    """`rate` of each node's stage-steps are audited; 0: none.

    Not by a coin for each step: a node that is unlucky for its victims would then go unseen for long. Each node's turn
    comes at intervals of its own steps, each of which is drawn anew between half and one and a half times 1 / rate.
    The number of rows is 1 / u of a uniform u: a few mostly, but every position has its chance.

    chance: uniform random numbers in [0, 1).
    """

    def __init__(self, rate: float, chance: Callable[[], float]) -> None:
        self._rate = rate
        self._chance = chance
        self._tickets: dict[str, _Ticket] = {}

    def stepped(self, key: str) -> None:
        """The node has computed a step."""
        if self._rate:
            self._ticket(key).steps += 1

    def draw(self, key: str) -> int:
        """How many rows to audit of a session that opens on this node now; 0: none."""
        if not self._rate:
            return 0
        ticket, rows = self._ticket(key), int(1 / (1 - self._chance()))
        if ticket.close:
            ticket.close -= 1
            return max(rows, FIRST_ROWS)
        if ticket.steps < ticket.due:
            return 0
        ticket.steps, ticket.due = 0, self._interval()
        return rows

    def charge(self, key: str, rows: int) -> None:
        """An audit computes so many rows: what is above one step puts the next one off."""
        if self._rate:
            self._ticket(key).due += max(0, rows - STEP_ROWS) / STEP_ROWS / self._rate

    def redraw(self, key: str) -> None:
        """The audit came to nothing: the node's next session takes its place."""
        if self._rate:
            self._ticket(key).due = 0.0

    def watch(self, key: str, sessions: int = FIRST_SESSIONS) -> None:
        """Audit all of the node's next sessions."""
        if self._rate:
            self._ticket(key).close = sessions

    def _ticket(self, key: str) -> _Ticket:
        if key not in self._tickets:
            self._tickets[key] = _Ticket(self._interval())
        return self._tickets[key]

    def _interval(self) -> float:
        return (0.5 + self._chance()) / self._rate
