"""Everything that decides who may use a swarm, over one store."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from potluck.coordinator.gateway.reception import Reception
from potluck.coordinator.http.auth import KeyPolicy, LocalPolicy, Policy
from potluck.coordinator.members.books import Books
from potluck.coordinator.members.desk import Desks
from potluck.coordinator.members.door import StoreDoor
from potluck.coordinator.members.invites import Invite, Invites
from potluck.coordinator.members.keys import OWNER_ACCOUNT, Keys
from potluck.coordinator.members.members import Members
from potluck.coordinator.members.store import Store
from potluck.errors import StoreError
from potluck.types import Audience
from potluck.wire.identity import Identity, fingerprint
from potluck.wire.private import make_folder, write_private

_ALONE_S, _IN_FLEET_S = 5.0, 0.75
"""Seconds between two writes of the books."""


@dataclass(frozen=True)
class Office:
    """The parts that decide who may use a swarm. url: the coordinator's, as others reach it."""

    url: str
    policy: Policy
    reception: Reception
    invites: Invites
    keys: Keys
    members: Members
    books: Books
    desks: Desks

    def close(self) -> None:
        """Wait for what the desks do, and end the books."""
        self.desks.close()
        self.books.close()


def open_office(
    store: Store,
    audience: Audience,
    identity: Identity,
    url: str,
    proven_url: str = "",
    origins: Collection[str] = (),
    *,
    in_fleet: bool = False,
    ahead: Path | None = None,
) -> Office:
    """Open the office over a store. proven_url: the one that nodes must have dialled, if the coordinator knows it.

    origins: those of other sites' pages that may ask a swarm for this machine alone.
    in_fleet: whether other coordinators share the store, and are to know soon what is booked here.
    ahead: the folder in which this machine keeps what is booked and not stored yet.
    """
    invites = Invites(store, fingerprint(identity.public))
    keys, desks, shared = Keys(store), Desks(), audience is Audience.OPEN
    policy = LocalPolicy(origins) if audience is Audience.LOCAL else KeyPolicy(keys, open=shared, desk=desks.keys)
    door = StoreDoor(store, invites if audience is Audience.PRIVATE else None)
    books = Books(store, desks.books, _IN_FLEET_S if in_fleet else _ALONE_S, ahead=ahead)
    reception = Reception(identity, door, proven_url, desks.door, is_open=shared, ledger=books.ledger)
    return Office(url, policy, reception, invites, keys, Members(store), books, desks)


def keep_admin_key(keys: Keys, path: Path) -> None:
    """Make sure that this file contains an admin key, readable only by its owner. Raises StoreError when it cannot be
    written.
    """
    try:
        key = keys.find(path.read_text("utf-8").strip()) if path.exists() else None
        if key is None or not key.admin:
            secret, _ = keys.create(OWNER_ACCOUNT, admin=True, per_minute=None)
            _keep(path, secret)
    except OSError as error:
        raise StoreError(f"The admin key cannot be kept in {path}: {error.strerror or error}.") from error


def keep_invite(invites: Invites, path: Path, lifetime_s: float | None) -> tuple[str, Invite]:
    """The invite in this file, readable only by its owner, or a new one if nodes can no longer join with that.

    Raises StoreError when a new one cannot be kept.
    """
    try:
        text = path.read_text("utf-8").strip() if path.exists() else ""
        if (invite := invites.find(text)) is None:
            text, invite = invites.create(lifetime_s=lifetime_s)
            _keep(path, text)
    except OSError as error:
        raise StoreError(f"The invite cannot be kept in {path}: {error.strerror or error}.") from error
    return text, invite


def _keep(path: Path, secret: str) -> None:
    make_folder(path.parent)
    write_private(path, f"{secret}\n".encode())
