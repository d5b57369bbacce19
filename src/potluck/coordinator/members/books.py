"""Stores the ledger every few seconds, each change once, whatever becomes of the connection to the database."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.orm import Session

from potluck.coordinator.members.desk import Desk
from potluck.coordinator.members.ledger import Account, Changes, Ledger, Pending, Totals
from potluck.coordinator.members.members import Members
from potluck.coordinator.members.store import AccountRow, BookingRow, NodeRow, Store
from potluck.coordinator.members.write_ahead import WriteAhead, starting, store_left
from potluck.coordinator.topic import Topic
from potluck.errors import StoreError

log = logging.getLogger(__name__)

_KEPT_S = 365 * 86400.0
"""The seconds after which a run that has booked nothing is taken to be over."""
_WAITED_S = 30 * 86400.0
"""The seconds after which what a killed run has left is not stored any more."""

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

_TAKE_FROM_NODE = (
    update(NodeRow.__table__)  # type: ignore[arg-type]
    .where(NodeRow.key == bindparam("node"))
    .values(pending=NodeRow.pending - bindparam("less"))
)


class Books:
    """Stores the ledger. Only differences are written, so that coordinators that share a database do not overwrite each
    other's.

    A connection may be lost after changes are stored and before the database can say so. So changes that are tried
    again keep their number, and the database knows the last number of each run of a coordinator.
    every_s: seconds between two writes. clock: Unix time.
    ahead: the folder of write-ahead logs, of which this one keeps what is not stored yet if this coordinator is killed.
    """

    def __init__(
        self,
        store: Store,
        desk: Desk | None = None,
        every_s: float = 5.0,
        clock: Callable[[], float] = time.time,
        ahead: Path | None = None,
    ) -> None:
        self._store = store
        self._desk = desk or Desk("books")
        self._every_s = every_s
        self._clock = clock
        self._members = Members(store)
        self._caught: dict[bytes, str] = {}
        self._trouble = ""
        """What the database said when the books were last written; empty if all was well."""
        self._run = secrets.token_hex(16)
        self._number = 1
        """The number of the changes that are stored next."""
        self._tried = False
        """Whether these changes were tried before, and may be stored or not."""
        self._writing = asyncio.Lock()
        self.stored: Topic[Totals] = Topic()
        """Tells the totals of the accounts that have changed, after each write."""
        self.recovered: Totals = {}
        """The totals of accounts whose changes were stored now, because a run was killed before."""
        self._ahead = None if ahead is None else self._log_ahead(ahead / store.name)
        try:
            self.ledger = self._load()
        except StoreError:
            self.close()
            raise

    def _log_ahead(self, folder: Path) -> WriteAhead | None:
        try:
            with starting(folder):
                store_left(folder, self._store_left, self._clock() - _WAITED_S)
                return WriteAhead(folder, self._run)
        except OSError as error:  # nobody has to wait until there is room on the disk
            log.error("If this coordinator is killed, credits that are not stored yet are lost: %s", error)
            return None

    def _store_left(self, run: str, number: int, changes: Changes) -> None:
        """Store what a run has left."""
        self.recovered |= self._book(run, number, changes)

    def _load(self) -> Ledger:
        with self._store.read() as session:
            accounts = {name: Account(*total) for name, total in _totals(session).items()}
            rows = session.scalars(select(NodeRow).where(NodeRow.pending > 0))
            pending = {bytes.fromhex(row.key): Pending(row.account, row.pending) for row in rows}
        return Ledger(accounts, pending) if self._ahead is None else Ledger(accounts, pending, self._ahead.note)

    def shut_out(self, key: bytes, reason: str) -> None:
        """Note that the node was caught lying. This is stored with the next changes, so that it stays outside in later
        runs, too.
        """
        self._caught[key] = reason

    @property
    def caught(self) -> frozenset[bytes]:
        """The nodes that were caught, of which the store does not know yet."""
        return frozenset(self._caught)

    async def write(self) -> None:
        """Store all that has changed. Raises StoreError; the changes are then tried again, before later ones."""
        async with self._writing:
            for key, reason in list(self._caught.items()):
                await self._desk.ask(self._members.quarantine, key.hex(), reason)
                del self._caught[key]
            if self._tried:
                await self._write_changes()
            await self._write_changes()

    async def _write_changes(self) -> None:
        changes = self.ledger.changes()
        if not changes:
            return
        if self._ahead is not None and not self._tried:
            self._ahead.turn(self._number + 1)
        self._tried = True
        totals = await self._desk.ask(self._book, self._run, self._number, changes)
        self._tried = False
        if self._ahead is not None:
            self._ahead.drop(self._number)
        self._number += 1
        self.ledger.stored(totals)
        if totals:
            self.stored.tell(totals)

    async def reread(self) -> None:
        """Let the ledger learn all that is stored, whoever stored it. Raises StoreError."""
        async with self._writing:  # what is being stored would count twice until that is known
            self.ledger.learn(await self._desk.ask(self._read_totals))

    def _read_totals(self) -> Totals:
        with self._store.read() as session:
            return _totals(session)

    def _book(self, run: str, number: int, changes: Changes) -> Totals:
        """Store the run's changes unless those with this number are stored. Returns the totals of their accounts."""
        with self._store.begin() as session:
            if not self._is_new(session, run, number):
                return _pay(session, changes.accounts, {}, {})
            # In one order, so that two coordinators never wait for each other's rows.
            _add_to_nodes(session, changes)
            return _pay(session, changes.accounts, _take_from_nodes(session, changes), changes.spent)

    def _is_new(self, session: Session, run: str, number: int) -> bool:
        """Whether the run's changes with this number are not stored. They are, once the transaction is kept."""
        row, now = session.get(BookingRow, run, with_for_update=True), self._clock()
        if row is None:
            session.execute(delete(BookingRow).where(BookingRow.booked < now - _KEPT_S))
            row = BookingRow(run=run, number=0, booked=now)
            session.add(row)
        is_new = row.number < number
        row.number, row.booked = number, now
        session.flush()  # before all else, so that a try of which the database does not yet know that it is lost waits
        return is_new

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

    def close(self) -> None:
        """End the run. The next one stores what could not be written."""
        if self._ahead is not None:
            self._ahead.close()

    async def _write_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
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


def _totals(session: Session) -> Totals:
    rows = session.execute(select(AccountRow.name, AccountRow.earned, AccountRow.spent))
    return {row.name: (row.earned, row.spent) for row in rows}


def _add_to_nodes(session: Session, changes: Changes) -> None:
    """Add what nodes have earned and how they were audited. The rows of all nodes in the changes are locked then."""
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


def _take_from_nodes(session: Session, changes: Changes) -> Counter[str]:
    """Take from nodes what is pending no longer. Returns what accounts earn by that.

    What was forfeited goes first: if two coordinators disagree about the same credits, nobody earns them.
    """
    keys = [settled.node.hex() for settled in changes.settled] + [key.hex() for key in changes.forfeited]
    if not keys:
        return Counter()
    rows = session.execute(select(NodeRow.key, NodeRow.pending).where(NodeRow.key.in_(keys)))
    held = {row.key: row.pending for row in rows}
    left, earned = Counter(held), Counter[str]()
    for node, credits in changes.forfeited.items():
        left[node.hex()] -= min(credits, left[node.hex()])
    for (node, account), credits in changes.settled.items():
        right = min(credits, left[node.hex()])
        left[node.hex()] -= right
        earned[account] += right
    less = [{"node": key, "less": held[key] - left[key]} for key in sorted(held)]
    if less:
        session.connection().execute(_TAKE_FROM_NODE, less)
    return earned


def _pay(session: Session, names: Iterable[str], earned: Mapping[str, int], spent: Mapping[str, int]) -> Totals:
    """Book what accounts have earned and spent, as far as their credits go. Returns the totals of these accounts."""
    totals: Totals = {}
    locked = select(AccountRow).where(AccountRow.name.in_(names)).order_by(AccountRow.name).with_for_update()
    rows = {row.name: row for row in session.scalars(locked)}
    for name in sorted(names):
        row = rows.get(name) or AccountRow(name=name, earned=0, spent=0)
        session.add(row)
        row.earned += earned.get(name, 0)
        row.spent += min(spent.get(name, 0), max(0, row.earned - row.spent))
        totals[name] = row.earned, row.spent
    return totals
