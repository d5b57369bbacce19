"""The nodes that a swarm knows by their keys, whether they are connected or not."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from potluck.coordinator.members.store import NodeRow, Store
from potluck.errors import RequestError

QUARANTINE_S = 30 * 86400.0
"""Seconds that a node that was caught stays outside, unless the owner readmits it."""


class Member(Struct, frozen=True):
    """A known node. key: its public key, in hex. invite: the one that it used. Times are Unix seconds."""

    key: str
    account: str
    name: str
    invite: str | None
    first_seen: float
    last_seen: float
    trusted: bool
    revoked: bool
    audits_passed: int
    audits_failed: int
    quarantine: str
    quarantined_until: float


class Members:
    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    def all(self) -> list[Member]:
        """All nodes, in the order in which they first came."""
        return self._those()

    def with_keys(self, keys: Collection[str]) -> list[Member]:
        """The nodes with these keys."""
        return self._those(NodeRow.key.in_(keys))

    def of_account(self, account: str) -> list[Member]:
        return self._those(NodeRow.account == account)

    def by_invite(self, invite: str) -> list[Member]:
        return self._those(NodeRow.invite == invite)

    def _those(self, *wanted: ColumnElement[bool]) -> list[Member]:
        with self._store.read() as session:
            rows = session.scalars(select(NodeRow).where(*wanted).order_by(NodeRow.first_seen))
            return [_member(row) for row in rows]

    def mark(self, key: str, *, trusted: bool | None = None, revoked: bool | None = None) -> Member:
        """Mark a node; None changes nothing. Raises RequestError when no node with this key was ever here."""
        with self._store.begin() as session:
            row = _existing(session, key)
            row.trusted = row.trusted if trusted is None else trusted
            row.revoked = row.revoked if revoked is None else revoked
            if revoked is False:  # the owner lets it come again: out of quarantine, too
                row.quarantine, row.quarantined_until = "", 0.0
        return _member(row)

    def quarantine(self, key: str, reason: str) -> None:
        """Shut the door for the node from now on, also when the coordinator starts again."""
        until = self._clock() + QUARANTINE_S
        with self._store.begin() as session:
            caught = update(NodeRow).values(quarantine=reason, quarantined_until=until).where(NodeRow.key == key)
            session.execute(caught)


def _existing(session: Session, key: str) -> NodeRow:
    row = session.get(NodeRow, key, with_for_update=True)
    if row is None:
        raise RequestError(f"No node with the key {key!r} was ever here.", status=404)
    return row


def _member(row: NodeRow) -> Member:
    return msgspec.convert(row, Member, from_attributes=True)
