"""Tells the faults of nodes from those of requests: a node is blamed for a step only if another attempt succeeds. Pure.

A request can be one that no node can run, such as a prompt for which the model's numbers overflow. If nodes were
blamed for it, whoever repeats it would have every node passed over.
"""

from __future__ import annotations

from typing import NamedTuple

from potluck.coordinator.recent import Recent

_MOST_SESSIONS = 4096


class Suspect(NamedTuple):
    """The node that could not run a step up to the position `end`; None if several attempts have failed, so that the
    request is at fault.
    """

    node: str | None
    end: int


class Suspects:
    """The suspects of all sessions, by the session's number."""

    def __init__(self) -> None:
        self._suspects: Recent[int, Suspect] = Recent(lambda: Suspect(None, 0), _MOST_SESSIONS)

    def failed(self, session: int, node: str, end: int) -> None:
        """Note that the node could not run a step of the session, whose last position is the one before `end`."""
        before = self._suspects.get(session)
        self._suspects[session] = Suspect(node, end) if before is None else Suspect(None, max(end, before.end))

    def ran(self, session: int, end: int) -> str | None:
        """Note that a step of the session has ended well. Returns the node that is to be blamed.

        Steps that only rebuild what the session held do not count, and neither do those before the one that failed.
        """
        suspect = self._suspects.get(session)
        if suspect is None or end < suspect.end:
            return None
        self._suspects.pop(session)
        return suspect.node
