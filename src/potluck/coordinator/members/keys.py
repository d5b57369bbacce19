"""API keys, which say who asks over HTTP."""

from __future__ import annotations

import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct
from sqlalchemy import bindparam, select

from potluck.coordinator.members.store import KeyRow, Store, digest_of
from potluck.errors import RequestError

PREFIX = "pk-"
"""How every secret begins."""
_SECRET = re.compile(r"pk-[A-Za-z0-9_-]{32}")

OWNER_ACCOUNT = "owner"
"""The account of whoever started the coordinator."""

PER_MINUTE = 600
"""The default limit of requests a minute for a key: far more than a person needs, and no flood."""


_FIND = select(KeyRow).where(KeyRow.digest == bindparam("digest"), KeyRow.revoked.is_(False))
"""Built once: every request asks this, and building it takes as long as asking."""

MOST_MADE = 1024
"""The new keys that wait to be taken notice of."""


class Key(Struct, frozen=True):
    """An API key without its secret, which only its owner has. per_minute: requests; None means any number.

    models: the names of those that it may ask; empty means all.
    """

    id: str
    account: str
    admin: bool
    per_minute: int | None
    created: float
    revoked: bool
    models: list[str] = []


class Keys:
    """The keys of a store, which is asked anew each time, so that a key revoked elsewhere is revoked here."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self.made: deque[tuple[str, Key]] = deque(maxlen=MOST_MADE)
        """The digests of keys that were made here, for whoever takes them."""

    def create(
        self, account: str, *, admin: bool = False, per_minute: int | None = PER_MINUTE, models: Sequence[str] = ()
    ) -> tuple[str, Key]:
        """The secret, which is not stored, and the key."""
        secret = PREFIX + secrets.token_urlsafe(24)
        row = KeyRow(
            id=secrets.token_hex(4),
            digest=digest_of(secret),
            account=account,
            admin=admin,
            per_minute=per_minute,
            created=self._clock(),
            revoked=False,
            models="\n".join(models) or None,
        )
        with self._store.begin() as session:
            session.add(row)
        self.made.append((row.digest, _key(row)))
        return secret, _key(row)

    def find(self, secret: str) -> Key | None:
        """The key with this secret; None if there is none, or if it is revoked. What cannot be a secret is not looked
        up.
        """
        if not _SECRET.fullmatch(secret):
            return None
        with self._store.read() as session:
            row = session.scalar(_FIND, {"digest": digest_of(secret)})
        return None if row is None else _key(row)

    def newest(self, most: int) -> list[tuple[str, Key]]:
        """The digests of so many valid keys, with their keys: those that were made last, the oldest of them first."""
        valid = select(KeyRow).where(KeyRow.revoked.is_(False)).order_by(KeyRow.created.desc()).limit(most)
        with self._store.read() as session:
            return [(row.digest, _key(row)) for row in session.scalars(valid)][::-1]

    def all(self) -> list[Key]:
        """All keys, the oldest first."""
        with self._store.read() as session:
            return [_key(row) for row in session.scalars(select(KeyRow).order_by(KeyRow.created))]

    def revoke(self, number: str) -> Key:
        """Revoke a key. Raises RequestError when there is no key with this id."""
        with self._store.begin() as session:
            row = session.get(KeyRow, number)
            if row is None:
                raise RequestError(f"There is no API key {number!r}.", status=404)
            row.revoked = True
        return _key(row)


def _key(row: KeyRow) -> Key:
    names = row.models.split("\n") if row.models else []
    return Key(row.id, row.account, row.admin, row.per_minute, row.created, row.revoked, names)
