from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.accounts import Account, Ledger, Pending

ANNA, BEN = b"a", b"b"


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
                for stored, more in ((earned, changes.earned), (spent, changes.spent), (pending, changes.pending)):
                    stored.update(more)
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
