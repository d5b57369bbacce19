"""Decides which of the nodes that have proven their keys may join."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import update
from sqlalchemy.orm import Session

from potluck.coordinator.members.invites import Invite, Invites
from potluck.coordinator.members.store import NodeRow, Store
from potluck.errors import Refused, StoreError
from potluck.wire.identity import fingerprint

log = logging.getLogger(__name__)

_NOTED_S = 60.0
"""A node that comes back sooner is not noted again, so that nodes that come and go do not keep the disk busy."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the coordinator knows of an admitted node. account: its owner's, or empty. trusted: the owner is known.

    pending: its credits that no audit had covered yet when it came, as they were stored then.
    """

    account: str
    trusted: bool
    pending: int = 0


STRANGER = Entry("", trusted=False)


class Door(Protocol):
    def admit(self, key: bytes, name: str, invite: str, joins: bool = True) -> Entry:
        """Admit a node that has proven this public key. Call this on a thread, because it may ask a database.

        joins: False if the node only asks, so that nothing may change. Raises Refused with a sentence for its owner.
        """


class OpenDoor:
    """A door that admits everybody and knows nobody."""

    def admit(self, key: bytes, name: str, invite: str, joins: bool = True) -> Entry:
        return STRANGER


class StoreDoor:
    """A door that remembers nodes by their keys, and keeps out nodes that the owner revoked.

    invites: newcomers must have one of these; None admits everyone. A node that is known needs none, because coming
    back must not use up an invite. Nodes that share a key are one node to this door.
    """

    def __init__(self, store: Store, invites: Invites | None, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._invites = invites
        self._clock = clock
        self._lock = threading.Lock()
        """Guards against nodes with the same key that come at the same time: only one of them is new."""

    def admit(self, key: bytes, name: str, invite: str, joins: bool = True) -> Entry:
        now = self._clock()
        with self._store.read() as session:  # whoever is refused has cost no more than this
            row = session.get(NodeRow, key.hex())
            entry = _entry(row, now) if row is not None else self._expect(session, key, invite)
        if row is None and joins:
            return self._receive(key, name, invite, now)
        if row is not None and joins and (row.name != name or now - row.last_seen > _NOTED_S):
            self._note(key, name, now)
        return entry

    def _expect(self, session: Session, key: bytes, text: str) -> Entry:
        """The entry of a node that was never here. Raises Refused when it may not join."""
        invite = None
        if self._invites is not None:
            if not text:
                raise Refused(
                    "This swarm is private: ask its owner for an invite, and join with its URL. "
                    "If this machine has joined before, use the same --name: a node's key belongs to its name."
                )
            invite = self._invites.check(session, text)
        return Entry(_account(key, invite), trusted=False)

    def _receive(self, key: bytes, name: str, invite: str, now: float) -> Entry:
        with self._lock, self._store.begin() as session:
            row = session.get(NodeRow, key.hex(), with_for_update=True) or self._newcomer(session, key, invite)
            row.name, row.last_seen = name, now
            return _entry(row, now)

    def _note(self, key: bytes, name: str, now: float) -> None:
        """Note when a known node came. It may come in even where this cannot be stored."""
        try:
            with self._store.begin() as session:
                session.execute(update(NodeRow).values(name=name, last_seen=now).where(NodeRow.key == key.hex()))
        except StoreError as error:
            log.error("It is not stored that node %s came: %s", name, error)

    def _newcomer(self, session: Session, key: bytes, text: str) -> NodeRow:
        # What the invite opened a moment ago, it may open no longer.
        invite = self._invites.redeem(session, text) if self._invites is not None else None
        row = NodeRow(key=key.hex(), account=_account(key, invite), first_seen=self._clock(), revoked=False)
        row.invite = invite.id if invite is not None else None
        row.quarantined_until, row.trusted, row.pending = 0.0, False, 0
        session.add(row)
        return row


def _account(key: bytes, invite: Invite | None) -> str:
    """The account for which a new node earns: its own, unless its invite names one."""
    return (invite is not None and invite.account) or fingerprint(key)


def _entry(row: NodeRow, now: float) -> Entry:
    if row.revoked:
        raise Refused("The swarm's owner has revoked this node.")
    if row.quarantined_until > now:
        raise Refused(f"This node is in quarantine: {row.quarantine}")
    return Entry(row.account, row.trusted, row.pending)
