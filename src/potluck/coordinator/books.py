"""Reads the ledger from the store, and writes what has changed every few seconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sqlalchemy import select, update

from potluck.coordinator.accounts import Account, Changes, Ledger, Pending
from potluck.coordinator.members.members import Members
from potluck.coordinator.store import AccountRow, NodeRow, Store
from potluck.errors import StoreError

log = logging.getLogger(__name__)

_EVERY_S = 5.0
"""What a coordinator that dies may forget."""


class Books:
    """Only differences are written, so that coordinators that share a database do not overwrite each other's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._members = Members(store)
        self._caught: dict[bytes, str] = {}
        self.ledger = self._load()

    def _load(self) -> Ledger:
        with self._store.begin() as session:
            accounts = {row.name: Account(row.earned, row.spent) for row in session.scalars(select(AccountRow))}
            rows = session.scalars(select(NodeRow).where(NodeRow.pending > 0))
            return Ledger(accounts, {bytes.fromhex(row.key): Pending(row.account, row.pending) for row in rows})

    def shut_out(self, key: bytes, reason: str) -> None:
        """The node was caught lying: it is put down with the next changes, and so stays outside in later runs, too."""
        self._caught[key] = reason

    async def write(self) -> None:
        """Store what has changed. Raises StoreError; it will be tried again with the next changes."""
        for key, reason in list(self._caught.items()):
            await asyncio.to_thread(self._members.quarantine, key.hex(), reason)
            del self._caught[key]
        changes = self.ledger.changes()
        if not changes:
            return
        try:
            await asyncio.to_thread(self._add, changes)
        except StoreError:
            self.ledger.undo(changes)
            raise

    def _add(self, changes: Changes) -> None:
        with self._store.begin() as session:
            # In one order, so that two coordinators never wait for each other's rows.
            for name in sorted(changes.earned.keys() | changes.spent.keys()):
                row = session.get(AccountRow, name, with_for_update=True)
                if row is None:
                    row = AccountRow(name=name, earned=0, spent=0)
                    session.add(row)
                row.earned += changes.earned[name]
                row.spent += changes.spent[name]
            for key in sorted(changes.nodes):
                more = update(NodeRow).values(
                    pending=NodeRow.pending + changes.pending[key],
                    audits_passed=NodeRow.audits_passed + changes.passed[key],
                    audits_failed=NodeRow.audits_failed + changes.failed[key],
                )
                session.execute(more.where(NodeRow.key == key.hex()))

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Written at intervals while the block runs, and at its end."""
        writing = asyncio.create_task(self._write_again_and_again())
        try:
            yield
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
            await self._try_to_write()

    async def _write_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self._try_to_write()

    async def _try_to_write(self) -> None:
        try:
            await self.write()
        except StoreError as error:
            log.error("Credits and audits are not stored yet: %s", error)
