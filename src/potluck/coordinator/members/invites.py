"""Invites, which let nodes join a private swarm."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.orm import Session

from potluck.coordinator.members.store import InviteRow, Store, digest_of
from potluck.errors import Refused, RequestError

_SECRET = re.compile(r"[A-Za-z0-9_-]{22}")


class Invite(Struct, frozen=True):
    """An invite without its secret, which only those have to whom it was given.

    uses_left: None means any number. expires: Unix time, None means never. account: the one whose credits its nodes
    earn; None means one for each node.
    """

    id: str
    account: str | None
    uses_left: int | None
    expires: float | None
    created: float
    revoked: bool


class Invites:
    """The invites of a store. fingerprint: of the coordinator's key, from which the invited learn whom to trust."""

    def __init__(self, store: Store, fingerprint: str, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._fingerprint = fingerprint
        self._clock = clock

    def create(
        self, *, uses: int | None = None, lifetime_s: float | None = None, account: str | None = None
    ) -> tuple[str, Invite]:
        """The text to give away, whose secret is not stored, and the invite."""
        secret, now = secrets.token_urlsafe(16), self._clock()
        row = InviteRow(
            id=secrets.token_hex(4),
            digest=digest_of(secret),
            account=account,
            uses_left=uses,
            expires=None if lifetime_s is None else now + lifetime_s,
            created=now,
            revoked=False,
        )
        with self._store.begin() as session:
            session.add(row)
        return f"{secret}.{self._fingerprint}", _invite(row)

    def find(self, text: str) -> Invite | None:
        """The invite with this text, if nodes can still join with it here."""
        if text.partition(".")[2] != self._fingerprint:
            return None
        try:
            with self._store.read() as session:
                return self.check(session, text)
        except Refused:
            return None

    def check(self, session: Session, text: str) -> Invite:
        """The invite with this text. Raises Refused with the reason when it opens nothing."""
        return _invite(self._valid(session, text, locked=False))

    def redeem(self, session: Session, text: str) -> Invite:
        """Use an invite once, in this transaction. Raises Refused with the reason when it opens nothing."""
        row = self._valid(session, text, locked=True)
        if row.uses_left is not None:
            row.uses_left -= 1
        return _invite(row)

    def _valid(self, session: Session, text: str, *, locked: bool) -> InviteRow:
        """The row of an invite. locked: so that two nodes at once cannot both take the last use. What cannot be a
        secret is not looked up.
        """
        secret, row = text.partition(".")[0], None
        if _SECRET.fullmatch(secret):
            wanted = select(InviteRow).where(InviteRow.digest == digest_of(secret))
            row = session.scalar(wanted.with_for_update() if locked else wanted)
        if row is None:
            raise Refused("This invite is not known here: ask the swarm's owner for another.")
        if fault := _fault(row, self._clock()):
            raise Refused(f"This invite {fault}: ask the swarm's owner for another.")
        return row

    def all(self) -> list[Invite]:
        """All invites, the oldest first."""
        with self._store.read() as session:
            return [_invite(row) for row in session.scalars(select(InviteRow).order_by(InviteRow.created))]

    def revoke(self, number: str) -> Invite:
        """Stop new nodes from joining with the invite. Raises RequestError when there is no invite with this id."""
        with self._store.begin() as session:
            row = session.get(InviteRow, number)
            if row is None:
                raise RequestError(f"There is no invite {number!r}.", status=404)
            row.revoked = True
        return _invite(row)


def _fault(row: InviteRow, now: float) -> str | None:
    """Why the invite opens nothing; None if it does."""
    if row.revoked:
        return "was revoked"
    if row.expires is not None and row.expires <= now:
        return "has expired"
    return "is used up" if row.uses_left == 0 else None


def _invite(row: InviteRow) -> Invite:
    return msgspec.convert(row, Invite, from_attributes=True)
