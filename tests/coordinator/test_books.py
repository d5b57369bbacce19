import asyncio

import pytest
from sqlalchemy import text

from potluck.coordinator import books as module
from potluck.coordinator.accounts import Account
from potluck.coordinator.books import Books
from potluck.coordinator.door import StoreDoor
from potluck.coordinator.members import Members
from potluck.coordinator.store import Store, open_store
from potluck.errors import StoreError
from potluck.local import HANG_S

ANNA = b"a" * 32


@pytest.fixture
def known(store: Store, clock) -> Store:
    """A store that knows a node."""
    StoreDoor(store, None, clock).admit(ANNA, "anna", "")
    return store


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
    asyncio.run(books.write())
    books.ledger.earn(ANNA, "anna", 7)
    asyncio.run(books.write())
    again = open_store(database)
    ledger = Books(again).ledger
    again.close()
    assert ledger.account("anna") == Account(100, 30)
    ledger.settle(ANNA)
    assert ledger.balance("anna") == 70  # those were for the account that the store knows
    assert ledger.changes().earned.total() == 7


def test_coordinators_that_share_a_database_add_up(known: Store, database: str) -> None:
    other_store = open_store(database)
    one, other = Books(known), Books(other_store)
    for books in (one, other, one):
        books.ledger.earn(ANNA, "anna", 10)
        books.ledger.settle(ANNA)
        asyncio.run(books.write())
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
        asyncio.run(books.write())
    with known.begin() as session:
        session.execute(text(rename.format("hidden", "accounts")))
    asyncio.run(books.write())
    assert Books(known).ledger.balance("anna") == 10
    [member] = Members(known).all()
    assert (member.audits_passed, member.audits_failed) == (1, 1)


def test_audits_are_stored_with_the_node(known: Store) -> None:
    books = Books(known)
    for passed in (True, True, False):
        books.ledger.audited(ANNA, passed=passed)
    books.ledger.audited(b"nobody", passed=False)  # where everybody may join, nodes are not known
    asyncio.run(books.write())
    books.ledger.audited(ANNA, passed=True)
    asyncio.run(books.write())
    [member] = Members(known).all()
    assert (member.audits_passed, member.audits_failed) == (3, 1)


def test_books_are_written_while_they_are_kept_and_at_the_end(known: Store, monkeypatch) -> None:
    monkeypatch.setattr(module, "_EVERY_S", 0.01)

    async def test() -> None:
        books = Books(known)
        async with books.kept():
            books.ledger.earn(ANNA, "anna", 10)
            books.ledger.settle(ANNA)
            async with asyncio.timeout(HANG_S):
                await stored(known, 10)
            books.ledger.spend("anna", 4)
        assert Books(known).ledger.account("anna") == Account(10, 4)

    asyncio.run(test())
