"""What a node shows when it fetches weights over HTTP, beside its web-socket."""

from __future__ import annotations

import secrets

from potluck.coordinator.members.store import digest_of


class Tickets:
    """One for each connection of a node; it is good as long as that lasts."""

    def __init__(self) -> None:
        self._issued: dict[str, str] = {}
        self._digests: set[str] = set()

    def issue(self, node: str) -> str:
        """The node's ticket: the same each time."""
        ticket = self._issued.setdefault(node, secrets.token_urlsafe(24))
        self._digests.add(digest_of(ticket))
        return ticket

    def cancel(self, node: str) -> None:
        ticket = self._issued.pop(node, None)
        if ticket is not None:
            self._digests.remove(digest_of(ticket))

    def holds(self, ticket: str) -> bool:
        """Whether a node that is connected now has this ticket. By its hash, so that the time tells no part of one."""
        return digest_of(ticket) in self._digests
