"""Everything that decides who may use a swarm, over one store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from potluck.coordinator.gateway.reception import Reception
from potluck.coordinator.http.auth import KeyPolicy, LocalPolicy, Policy
from potluck.coordinator.members.door import StoreDoor
from potluck.coordinator.members.invites import Invites
from potluck.coordinator.members.keys import OWNER_ACCOUNT, Keys
from potluck.coordinator.members.ledger import Books
from potluck.coordinator.members.members import Members
from potluck.coordinator.members.store import Store
from potluck.errors import StoreError
from potluck.types import Audience
from potluck.wire.identity import Identity, fingerprint, write_private


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


def open_office(store: Store, audience: Audience, identity: Identity, url: str, proven_url: str = "") -> Office:
    """Open the office over a store. proven_url: the one that nodes must have dialled, if the coordinator knows it."""
    invites = Invites(store, fingerprint(identity.public))
    keys = Keys(store)
    policy = LocalPolicy() if audience is Audience.LOCAL else KeyPolicy(keys, open=audience is Audience.OPEN)
    door = StoreDoor(store, invites if audience is Audience.PRIVATE else None)
    reception = Reception(identity, door, proven_url)
    return Office(url, policy, reception, invites, keys, Members(store), Books(store))


def keep_admin_key(keys: Keys, path: Path) -> None:
    """Make sure that this file contains an admin key, readable only by its owner. Raises StoreError when it cannot be
    written.
    """
    try:
        key = keys.find(path.read_text("utf-8").strip()) if path.exists() else None
        if key is None or not key.admin:
            secret, _ = keys.create(OWNER_ACCOUNT, admin=True, per_minute=None)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, f"{secret}\n".encode())
    except OSError as error:
        raise StoreError(f"The admin key cannot be kept in {path}: {error.strerror or error}.") from error
