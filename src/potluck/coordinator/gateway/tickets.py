"""Tickets that nodes show when they download weights over HTTP, beside their web-socket."""

from __future__ import annotations

import secrets

from potluck.coordinator.members.store import digest_of


class Tickets:
    """One ticket for each connection of a node, which is valid as long as the connection lasts."""

    def __init__(self) -> None:
        self._issued: dict[str, str] = {}
        self._digests: set[str] = set()

    def issue(self, node: str) -> str:
        """The node's ticket, which is the same each time."""
        ticket = self._issued.setdefault(node, secrets.token_urlsafe(24))
        self._digests.add(digest_of(ticket))
        return ticket

    def cancel(self, node: str) -> None:
        ticket = self._issued.pop(node, None)
        if ticket is not None:
            self._digests.remove(digest_of(ticket))

    def holds(self, ticket: str) -> bool:
        """Whether a connected node has this ticket. It is compared by its hash, so that timing reveals nothing."""
        return digest_of(ticket) in self._digests
