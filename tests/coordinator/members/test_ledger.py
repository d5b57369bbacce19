import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from kit.runner import run
from potluck.coordinator.members import ledger as module
from potluck.coordinator.members.door import StoreDoor
from potluck.coordinator.members.ledger import Account, Books, Ledger, Pending
from potluck.coordinator.members.members import Members
from potluck.coordinator.members.store import Store, open_store
from potluck.errors import StoreError
from potluck.local import HANG_S

ANNA, BEN = b"a" * 32, b"b" * 32


def test_credits_count_when_an_audit_has_covered_them() -> None:
    ledger = Ledger()
    ledger.earn(ANNA, "anna", 30)
    ledger.earn(ANNA, "anna", 12)
    ledger.earn(BEN, "anna", 5)
    assert (ledger.balance("anna"), ledger.pending("anna")) == (0, 47)
    ledger.settle(ANNA)
    assert (ledger.balance("anna"), ledger.pending("anna")) == (42, 5)
    ledger.settle(ANNA)  # nothing is pending
    assert ledger.balance("anna") == 42


def test_a_cheat_forfeits_what_is_pending_and_keeps_what_was_covered() -> None:
    ledger = Ledger()
    ledger.earn(ANNA, "anna", 10)
    ledger.settle(ANNA)
    ledger.earn(ANNA, "anna", 1000)
    ledger.forfeit(ANNA)
    ledger.settle(ANNA)
    assert (ledger.balance("anna"), ledger.pending("anna")) == (10, 0)


def test_an_account_pays_as_far_as_its_credits_go() -> None:
    ledger = Ledger({"anna": Account(earned=10, spent=2)})
    ledger.spend("anna", 5)
    assert (ledger.balance("anna"), ledger.account("anna").spent) == (3, 7)
    ledger.spend("anna", 100)
    assert (ledger.balance("anna"), ledger.account("anna").spent) == (0, 10)
    ledger.spend("nobody", 100)
    assert ledger.account("nobody") == Account()


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["earn", "settle", "forfeit", "spend", "store", "fail"]),
        st.sampled_from([ANNA, BEN]),
        st.integers(0, 100),
    )
)


@given(EVENTS)
def test_the_changes_add_up_to_what_the_ledger_says_and_nothing_is_made_of_nothing(events) -> None:
    ledger, accounts = Ledger(), {ANNA: "anna", BEN: "ben"}
    earned, spent, pending, work = Counter[str](), Counter[str](), Counter[bytes](), 0
    for event, node, amount in [*events, ("store", ANNA, 0)]:
        match event:
            case "earn":
                ledger.earn(node, accounts[node], amount)
                work += amount
            case "settle":
                ledger.settle(node)
            case "forfeit":
                ledger.forfeit(node)
            case "spend":
                ledger.spend(accounts[node], amount)
            case "fail":
                ledger.undo(ledger.changes())
            case "store":
                changes = ledger.changes()
                earned.update(changes.earned)
                spent.update(changes.spent)
                pending.update(changes.pending)
                assert not ledger.changes()
    for node, account in accounts.items():
        assert ledger.account(account) == Account(earned[account], spent[account])
        assert ledger.pending(account) == pending[node] >= 0
        assert ledger.balance(account) >= 0
    assert earned.total() + pending.total() <= work


def test_a_ledger_goes_on_from_what_was_stored() -> None:
    ledger = Ledger({"anna": Account(10, 4)}, {ANNA: Pending("anna", 7)})
    ledger.settle(ANNA)
    assert ledger.balance("anna") == 13
    changes = ledger.changes()
    assert (dict(changes.earned), dict(changes.pending)) == ({"anna": 7}, {ANNA: -7})


# Books


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
    run(books.write())
    books.ledger.earn(ANNA, "anna", 7)
    run(books.write())
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
