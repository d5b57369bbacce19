"""Tells the faults of nodes from those of requests: a node is blamed for a step only if another attempt succeeds. Pure.

A request can be one that no node can run, such as a prompt for which the model's numbers overflow. If nodes were
blamed for it, whoever repeats it would have every node passed over.
"""

from __future__ import annotations

from potluck.coordinator.recent import Recent

_MOST_SESSIONS = 4096


class Suspects:
    """The nodes that could not run the latest step of a session, by the session's number."""

    def __init__(self) -> None:
        self._suspects: Recent[int, str | None] = Recent(lambda: None, _MOST_SESSIONS)
        """A session's suspect; None if several attempts have failed, so that the request is at fault."""

    def failed(self, session: int, node: str) -> None:
        """Note that the node could not run a step of the session."""
        self._suspects[session] = None if session in self._suspects else node

    def ran(self, session: int) -> str | None:
        """Note that a step of the session has ended well. Returns the node that is to be blamed."""
        return self._suspects.pop(session)
