"""Tickets that nodes show when they download weights over HTTP, beside their web-socket."""

from __future__ import annotations

import secrets

from potluck.coordinator.members.store import digest_of


class Tickets:
    """One ticket for each connection of a node, which is valid as long as the connection lasts, for one model."""

    def __init__(self) -> None:
        self._issued: dict[str, str] = {}
        self._models: dict[str, str] = {}
        """The models by the hashes of tickets, so that the time that a comparison takes reveals nothing."""

    def issue(self, node: str, model: str) -> str:
        """The node's ticket, which is the same each time. model: the digest of the one that it opens from now on."""
        ticket = self._issued.setdefault(node, secrets.token_urlsafe(24))
        self._models[digest_of(ticket)] = model
        return ticket

    def cancel(self, node: str) -> None:
        ticket = self._issued.pop(node, None)
        if ticket is not None:
            del self._models[digest_of(ticket)]

    def model_of(self, ticket: str) -> str | None:
        """The digest of the model that this ticket of a connected node opens; None if it is no such ticket."""
        return self._models.get(digest_of(ticket))
