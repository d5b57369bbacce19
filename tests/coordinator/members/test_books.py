import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from kit.runner import run
from potluck.coordinator.members import books as module
from potluck.coordinator.members.books import Books
from potluck.coordinator.members.door import StoreDoor
from potluck.coordinator.members.ledger import Account, Totals
from potluck.coordinator.members.members import Members
from potluck.coordinator.members.store import BookingRow, NodeRow, Store, open_store
from potluck.errors import StoreError
from potluck.local import HANG_S

ANNA, BEN = b"a" * 32, b"b" * 32


async def stored(store: Store, credits: int) -> None:
    """Until another would read so much."""
    while True:
        if Books(store).ledger.balance("anna") == credits:
            return
        await asyncio.sleep(0.01)


def test_the_next_coordinator_finds_the_same_figures(known: Store, database: str) -> None:
    books = Books(known)
    books.ledger.earn(ANNA, "anna", 100)
    books.ledger.settle(ANNA)
    books.ledger.spend("anna", 30)
    run(books.write())
    books.ledger.earn(ANNA, "anna", 7)
    run(books.write())
    again = open_store(database)
    ledger = Books(again).ledger
    again.close()
    assert ledger.account("anna") == Account(100, 30)
    ledger.settle(ANNA)
    assert ledger.balance("anna") == 70  # those were for the account that the store knows
    assert ledger.changes().settled.total() == 7


def test_coordinators_that_share_a_database_add_up(known: Store, database: str) -> None:
    other_store = open_store(database)
    one, other = Books(known), Books(other_store)
    for books in (one, other, one):
        books.ledger.earn(ANNA, "anna", 10)
        books.ledger.settle(ANNA)
        run(books.write())
    other_store.close()
    assert Books(known).ledger.account("anna") == Account(30, 0)


def test_what_could_not_be_stored_is_stored_later(known: Store) -> None:
    books = Books(known)
    books.ledger.earn(ANNA, "anna", 10)
    books.ledger.settle(ANNA)
    books.ledger.audited(ANNA, passed=True)
    books.ledger.audited(ANNA, passed=False)
    rename = "ALTER TABLE {} RENAME TO {}"
    with known.begin() as session:
        session.execute(text(rename.format("accounts", "hidden")))
    with pytest.raises(StoreError):
        run(books.write())
    with known.begin() as session:
        session.execute(text(rename.format("hidden", "accounts")))
    run(books.write())
    assert Books(known).ledger.balance("anna") == 10
    [member] = Members(known).all()
    assert (member.audits_passed, member.audits_failed) == (1, 1)


def test_audits_are_stored_with_the_node(known: Store) -> None:
    books = Books(known)
    for passed in (True, True, False):
        books.ledger.audited(ANNA, passed=passed)
    books.ledger.audited(b"nobody", passed=False)  # where everybody may join, nodes are not known
    run(books.write())
    books.ledger.audited(ANNA, passed=True)
    run(books.write())
    [member] = Members(known).all()
    assert (member.audits_passed, member.audits_failed) == (3, 1)


def test_books_are_written_while_they_are_kept_and_at_the_end(known: Store) -> None:
    async def test() -> None:
        books = Books(known, every_s=0.01)
        async with books.kept():
            books.ledger.earn(ANNA, "anna", 10)
            books.ledger.settle(ANNA)
            async with asyncio.timeout(HANG_S):
                await stored(known, 10)
            books.ledger.spend("anna", 4)
        assert Books(known).ledger.account("anna") == Account(10, 4)

    run(test())


def test_books_that_cannot_be_written_say_so_once_and_when_they_can_be_again(known: Store, monkeypatch, caplog) -> None:
    caplog.set_level("INFO", module.__name__)
    books = Books(known)
    trouble: list[StoreError | None] = [
        None,
        StoreError("Full."),
        StoreError("Full."),
        StoreError("Locked."),
        None,
        None,
    ]

    async def write() -> None:
        if (error := trouble.pop(0)) is not None:
            raise error

    async def test() -> None:
        while trouble:
            await books._try_to_write()

    monkeypatch.setattr(books, "write", write)
    run(test())
    told = "Credits and audits are not stored yet: {}"
    assert caplog.messages == [told.format("Full."), told.format("Locked."), "Credits and audits are stored again."]


# What is lost on the way


def pending(store: Store, key: bytes = ANNA) -> int:
    with store.read() as session:
        credits = session.scalar(select(NodeRow.pending).where(NodeRow.key == key.hex()))
        assert credits is not None
        return credits


class Deaf:
    """A store that may not hear that its changes are kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read = store.read
        self.hears = True

    @contextmanager
    def begin(self) -> Iterator[Session]:
        with self._store.begin() as session:
            yield session
        if not self.hears:
            raise StoreError("The connection is lost.", is_away=True)


def test_what_was_stored_before_the_connection_was_lost_is_not_stored_again(known: Store) -> None:
    deaf = Deaf(known)
    books = Books(deaf)  # type: ignore[arg-type]
    told: list[Totals] = []
    books.stored.listen(told.append)
    books.ledger.earn(ANNA, "anna", 10)
    books.ledger.earn(BEN, "ben", 1)  # which the database does not know
    books.ledger.settle(ANNA)
    books.ledger.spend("anna", 3)
    books.ledger.audited(ANNA, passed=True)
    deaf.hears = False
    for _ in range(2):
        with pytest.raises(StoreError):
            run(books.write())
        books.ledger.earn(ANNA, "anna", 5)
    assert told == []
    assert Books(known).ledger.account("anna") == books.ledger.account("anna") == Account(10, 3)
    deaf.hears = True
    run(books.write())
    assert told == [{"anna": (10, 3)}]
    run(books.write())
    assert pending(known) == 10
    assert Books(known).ledger.account("anna") == books.ledger.account("anna") == Account(10, 3)
    assert Members(known).all()[0].audits_passed == 1


def test_a_write_that_is_cancelled_counts_once(known: Store) -> None:
    async def test() -> None:
        books = Books(known, every_s=0.0)
        async with asyncio.timeout(HANG_S):
            for _ in range(20):
                books.ledger.earn(ANNA, "anna", 10)
                books.ledger.settle(ANNA)
                async with books.kept():
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
        assert Books(known).ledger.account("anna") == books.ledger.account("anna") == Account(200, 0)

    run(test())


def test_writes_at_the_same_time_wait_for_each_other(known: Store) -> None:
    async def test() -> None:
        books = Books(known)
        for _ in range(5):
            books.ledger.earn(ANNA, "anna", 10)
            books.ledger.settle(ANNA)
            await asyncio.gather(books.write(), books.write(), books.reread())
            assert Books(known).ledger.account("anna") == books.ledger.account("anna")

    run(test())


def test_a_run_leaves_one_row_which_is_removed_when_it_is_long_over(known: Store, clock) -> None:
    for _ in range(3):
        books = Books(known, clock=clock)
        for _ in range(3):
            books.ledger.earn(ANNA, "anna", 10)
            run(books.write())
        clock.now += module._KEPT_S * 0.7
    with known.read() as session:
        assert [row.number for row in session.scalars(select(BookingRow))] == [3, 3]


# Two coordinators


@pytest.fixture
def two(known: Store, database: str) -> Iterator[list[Books]]:
    """The books of two coordinators, of which both know what is pending for a node."""
    StoreDoor(known, None).admit(BEN, "ben", "")
    with known.begin() as session:
        session.execute(text("UPDATE nodes SET pending = 100, account = name"))
    other = open_store(database)
    yield [Books(known), Books(other)]
    other.close()


def test_what_two_coordinators_settle_counts_once(known: Store, two: list[Books]) -> None:
    for books, more in zip(two, (5, 7), strict=True):
        books.ledger.earn(ANNA, "anna", more)
        books.ledger.settle(ANNA)
        books.ledger.spend("anna", 200)
        run(books.write())
    assert pending(known) == 0
    assert two[1].ledger.account("anna") == Account(112, 112)
    run(two[0].reread())
    assert two[0].ledger.account("anna") == Account(112, 112)


def test_what_one_settles_and_another_forfeits_counts_once(known: Store, two: list[Books]) -> None:
    first, second = two
    first.ledger.forfeit(ANNA)
    second.ledger.earn(ANNA, "anna", 7)
    second.ledger.settle(ANNA)
    for books in two:
        run(books.write())
    assert Books(known).ledger.account("anna") == Account(7, 0)
    second.ledger.settle(BEN)
    first.ledger.earn(BEN, "ben", 3)
    first.ledger.forfeit(BEN)
    for books in (second, first):
        run(books.write())
    assert Books(known).ledger.account("ben") == Account(100, 0)
    assert (pending(known), pending(known, BEN)) == (0, 0)


def test_a_node_that_comes_from_another_coordinator_is_known_with_what_it_has_pending(
    known: Store, two: list[Books], clock
) -> None:
    first, second = two
    first.ledger.settle(ANNA)
    first.ledger.earn(ANNA, "anna", 9)
    run(first.write())
    entry = StoreDoor(known, None, clock).admit(ANNA, "anna", "")
    assert entry.pending == 9
    second.ledger.adopt(ANNA, entry.account, entry.pending)
    assert second.ledger.pending("anna") == 9


def test_two_that_write_at_once_wait_for_each_other_in_no_circle(known: Store, two: list[Books]) -> None:
    """Each settles what the other adds to."""
    accounts = {ANNA: "anna", BEN: "ben"}

    async def write(books: Books, first: bytes, then: bytes) -> None:
        for _ in range(30):
            books.ledger.earn(first, accounts[first], 5)
            books.ledger.settle(first)
            books.ledger.earn(then, accounts[then], 5)
            books.ledger.spend(accounts[then], 1)
            await books.write()
        books.ledger.settle(then)
        await books.write()

    async def test() -> None:
        for books, node in zip(two, (ANNA, BEN), strict=True):  # the accounts are there
            books.ledger.settle(node)
            await books.write()
        await asyncio.gather(write(two[0], ANNA, BEN), write(two[1], BEN, ANNA))

    run(test())
    last = Books(known).ledger
    assert [last.account(account).earned for account in accounts.values()] == [400, 400]
    assert (pending(known), pending(known, BEN)) == (0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_two_coordinators_do_nothing_is_lost_or_doubled(known: Store, two: list[Books], seed: int) -> None:
    """Each forgets now and then what was stored, and learns what the other tells, late or never."""
    chance, told = random.Random(seed), [Totals()]
    accounts, work = {ANNA: "anna", BEN: "ben"}, 200
    deaf = [Deaf(books._store) for books in two]
    for each, books in zip(deaf, two, strict=True):
        books._store = each  # type: ignore[assignment]
        books.stored.listen(told.append)

    async def write(number: int, *, hears: bool) -> None:
        deaf[number].hears = hears
        try:
            await two[number].write()
        except StoreError:
            assert not hears

    async def test() -> None:
        nonlocal work
        for _ in range(60):
            number, node = chance.randrange(2), chance.choice([ANNA, BEN])
            ledger, account = two[number].ledger, accounts[node]
            match chance.randrange(6):
                case 0 | 1:
                    work += (more := chance.randrange(50))
                    ledger.earn(node, account, more)
                case 2:
                    ledger.settle(node)
                case 3:
                    ledger.spend(account, chance.randrange(200))
                case 4:
                    await write(number, hears=chance.random() < 0.5)
                case 5:
                    ledger.learn(chance.choice(told))
        for number in (0, 1, 0, 1):
            await write(number, hears=True)
        for books in two:
            await books.reread()

    run(test())
    last = Books(known).ledger
    totals = Counter({account: last.account(account).earned for account in accounts.values()})
    assert totals.total() + pending(known) + pending(known, BEN) == work
    for account in accounts.values():
        assert [books.ledger.account(account) for books in two] == [last.account(account)] * 2
        assert last.balance(account) >= 0
