"""Credits that accounts earned by computing and spent by asking, and the results of nodes' audits.

A credit is a layer-token: one position through one layer. The ledger has no clock and no I/O; the books read it from
the store, and write what has changed every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import bindparam, select, update

from potluck.coordinator.members.desk import Desk
from potluck.coordinator.members.members import Members
from potluck.coordinator.members.store import AccountRow, NodeRow, Store
from potluck.errors import StoreError

log = logging.getLogger(__name__)

_EVERY_S = 5.0
"""Seconds between two writes, which is what a coordinator that dies may forget."""

_ADD_TO_NODE = (
    update(NodeRow.__table__)  # type: ignore[arg-type]
    .where(NodeRow.key == bindparam("node"))
    .values(
        pending=NodeRow.pending + bindparam("more"),
        audits_passed=NodeRow.audits_passed + bindparam("passed"),
        audits_failed=NodeRow.audits_failed + bindparam("failed"),
    )
)
"""Not by the ORM, which takes as long for one of a thousand nodes as the database does for all."""


@dataclass(slots=True)
class Account:
    earned: int = 0
    spent: int = 0

    @property
    def balance(self) -> int:
        return self.earned - self.spent


class Pending(NamedTuple):
    """Credits of a node that no audit has covered yet, and the account that they are for."""

    account: str
    credits: int


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes to add to the stored figures: credits of accounts by name, and pending ones and audits by key."""

    earned: Counter[str] = field(default_factory=Counter)
    spent: Counter[str] = field(default_factory=Counter)
    pending: Counter[bytes] = field(default_factory=Counter)
    passed: Counter[bytes] = field(default_factory=Counter)
    failed: Counter[bytes] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        counts = (self.earned, self.spent, self.pending, self.passed, self.failed)
        return any(any(count.values()) for count in counts)

    @property
    def nodes(self) -> set[bytes]:
        """The keys of the nodes whose figures have changed."""
        return self.pending.keys() | self.passed.keys() | self.failed.keys()


class Ledger:
    """Keeps all accounts in memory, because every hop of every token is booked. `changes` is what to store."""

    def __init__(
        self, accounts: Mapping[str, Account] | None = None, pending: Mapping[bytes, Pending] | None = None
    ) -> None:
        self._accounts = dict(accounts or {})
        self._pending = dict(pending or {})
        self._changes = Changes()

    def earn(self, node: bytes, account: str, layer_tokens: int) -> None:
        """Note the node's work for the account. It counts once an audit has covered it."""
        held = self._pending.get(node, Pending(account, 0))
        self._pending[node] = Pending(account, held.credits + layer_tokens)
        self._changes.pending[node] += layer_tokens

    def audited(self, node: bytes, *, passed: bool) -> None:
        """Note the result of an audit of the node with this key."""
        (self._changes.passed if passed else self._changes.failed)[node] += 1

    def settle(self, node: bytes) -> None:
        """Take the node's work to be right: what is pending belongs to its account."""
        held = self._take(node)
        if held is not None:
            self._account(held.account).earned += held.credits
            self._changes.earned[held.account] += held.credits

    def forfeit(self, node: bytes) -> None:
        """Take the node's work to be wrong, as an audit found: what is pending is lost."""
        self._take(node)

    def _take(self, node: bytes) -> Pending | None:
        held = self._pending.pop(node, None)
        if held is not None:
            self._changes.pending[node] -= held.credits
        return held

    def spend(self, account: str, layer_tokens: int) -> None:
        """Charge the account for work. It pays as far as its credits go, because asking is never refused for lack of
        them.
        """
        paid = min(layer_tokens, self.balance(account))
        if paid:
            self._account(account).spent += paid
            self._changes.spent[account] += paid

    def _account(self, name: str) -> Account:
        return self._accounts.setdefault(name, Account())

    def balance(self, account: str) -> int:
        return self.account(account).balance

    def account(self, name: str) -> Account:
        """The account as it stands; all zeros for an unknown one."""
        return self._accounts.get(name, Account())

    def pending(self, account: str) -> int:
        """The pending credits of all nodes of the account."""
        return sum(held.credits for held in self._pending.values() if held.account == account)

    def changes(self) -> Changes:
        """The changes since this was last called."""
        changes, self._changes = self._changes, Changes()
        return changes

    def undo(self, changes: Changes) -> None:
        """Take back changes that could not be stored, so that they come with the next ones."""
        self._changes.earned.update(changes.earned)
        self._changes.spent.update(changes.spent)
        self._changes.pending.update(changes.pending)
        self._changes.passed.update(changes.passed)
        self._changes.failed.update(changes.failed)


class Books:
    """Stores the ledger. Only differences are written, so that coordinators that share a database do not overwrite each
    other's.
    """

    def __init__(self, store: Store, desk: Desk | None = None) -> None:
        self._store = store
        self._desk = desk or Desk("books")
        self._members = Members(store)
        self._caught: dict[bytes, str] = {}
        self._trouble = ""
        """What the database said when the books were last written; empty if all was well."""
        self.ledger = self._load()

    def _load(self) -> Ledger:
        with self._store.read() as session:
            accounts = {row.name: Account(row.earned, row.spent) for row in session.scalars(select(AccountRow))}
            rows = session.scalars(select(NodeRow).where(NodeRow.pending > 0))
            return Ledger(accounts, {bytes.fromhex(row.key): Pending(row.account, row.pending) for row in rows})

    def shut_out(self, key: bytes, reason: str) -> None:
        """Note that the node was caught lying. This is stored with the next changes, so that it stays outside in later
        runs, too.
        """
        self._caught[key] = reason

    async def write(self) -> None:
        """Store what has changed. Raises StoreError; the changes are then tried again with the next ones."""
        for key, reason in list(self._caught.items()):
            await self._desk.ask(self._members.quarantine, key.hex(), reason)
            del self._caught[key]
        changes = self.ledger.changes()
        if not changes:
            return
        try:
            await self._desk.ask(self._add, changes)
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
            more = [
                {
                    "node": key.hex(),
                    "more": changes.pending[key],
                    "passed": changes.passed[key],
                    "failed": changes.failed[key],
                }
                for key in sorted(changes.nodes)
            ]
            if more:
                session.connection().execute(_ADD_TO_NODE, more)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Write the books at intervals while the block runs, and at its end."""
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
            if self._trouble != str(error):  # said once: the log may be on the disk that is full
                log.error("Credits and audits are not stored yet: %s", error)
            self._trouble = str(error)
        else:
            if self._trouble:
                log.info("Credits and audits are stored again.")
            self._trouble = ""
