"""Who may join: asked about every node that has proven its key."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.orm import Session

from potluck.coordinator.members.invites import Invites
from potluck.coordinator.members.store import NodeRow, Store
from potluck.errors import Refused
from potluck.wire.identity import fingerprint


@dataclass(frozen=True, slots=True)
class Entry:
    """What the coordinator knows of an admitted node. account: its owner's, or empty. trusted: the owner is known."""

    account: str
    trusted: bool


STRANGER = Entry("", trusted=False)


class Door(Protocol):
    def admit(self, key: bytes, name: str, invite: str, joins: bool = True) -> Entry:
        """For a node that has proven this public key. Called on a thread: a database may be asked.

        joins: False where it only asks, so that nothing may change. Raises Refused, with a sentence for its owner.
        """


class OpenDoor:
    """Everybody may join, and nobody is known."""

    def admit(self, key: bytes, name: str, invite: str, joins: bool = True) -> Entry:
        return STRANGER


class StoreDoor:
    """Remembers nodes by their keys; nodes that the owner revoked stay outside.

    invites: what newcomers must have one of; None: everyone may come. A node that is known needs none: coming back
    must not use up an invite. Nodes that share a key are one to this.
    """

    def __init__(self, store: Store, invites: Invites | None, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._invites = invites
        self._clock = clock
        self._lock = threading.Lock()
        """Nodes of one key may come at once, and only one is new."""

    def admit(self, key: bytes, name: str, invite: str, joins: bool = True) -> Entry:
        now = self._clock()
        with self._lock, self._store.begin() as session:
            row = session.get(NodeRow, key.hex(), with_for_update=True) or self._newcomer(session, key, invite)
            if row.revoked:
                raise Refused("The swarm's owner has revoked this node.")
            if row.quarantined_until > now:
                raise Refused(f"This node is in quarantine: {row.quarantine}")
            row.name, row.last_seen = name, now
            entry = Entry(row.account, row.trusted)
            if not joins:
                session.rollback()
            return entry

    def _newcomer(self, session: Session, key: bytes, text: str) -> NodeRow:
        account, number = fingerprint(key), None
        if self._invites is not None:
            if not text:
                raise Refused(
                    "This swarm is private: ask its owner for an invite, and join with its URL. "
                    "If this machine has joined before, use the --name of then: a node's key belongs to its name."
                )
            invite = self._invites.redeem(session, text)
            account, number = invite.account or account, invite.id
        row = NodeRow(key=key.hex(), account=account, invite=number, first_seen=self._clock(), revoked=False)
        row.quarantined_until, row.trusted = 0.0, False
        session.add(row)
        return row
