from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.members.ledger import Account, Changes, Ledger, Pending, Settled, Totals

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


class Stored:
    """What a database does with changes, in memory."""

    def __init__(self) -> None:
        self.earned, self.spent, self.pending = Counter[str](), Counter[str](), Counter[bytes]()

    def book(self, changes: Changes) -> None:
        self.pending.update(changes.pending)
        for node, credits in changes.forfeited.items():
            self.pending[node] -= min(self.pending[node], credits)
        for (node, account), credits in changes.settled.items():
            right = min(self.pending[node], credits)
            self.pending[node] -= right
            self.earned[account] += right
        for account, credits in changes.spent.items():
            self.spent[account] += min(credits, self.earned[account] - self.spent[account])

    def totals(self) -> Totals:
        return {account: (self.earned[account], self.spent[account]) for account in ("anna", "ben")}


ACCOUNTS = {ANNA: "anna", BEN: "ben"}
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["earn", "settle", "forfeit", "spend", "store", "fail", "learn"]),
        st.sampled_from([ANNA, BEN]),
        st.integers(0, 100),
    )
)


def happen(ledger: Ledger, event: str, node: bytes, amount: int) -> None:
    match event:
        case "earn":
            ledger.earn(node, ACCOUNTS[node], amount)
        case "settle":
            ledger.settle(node)
        case "forfeit":
            ledger.forfeit(node)
        case "spend":
            ledger.spend(ACCOUNTS[node], amount)


@given(EVENTS)
def test_the_changes_add_up_to_what_the_ledger_says_and_nothing_is_made_of_nothing(events) -> None:
    ledger, stored, told, work = Ledger(), Stored(), [Totals()], 0
    for event, node, amount in [*events, ("store", ANNA, 0), ("store", ANNA, 0)]:
        before = [ledger.account(account) for account in ACCOUNTS.values()]
        happen(ledger, event, node, amount)
        work += amount if event == "earn" else 0
        if event == "store" and (changes := ledger.changes()):
            stored.book(changes)
            told.append(stored.totals())
            ledger.stored(told[-1])
        elif event == "fail":
            assert ledger.changes() == ledger.changes()
        elif event == "learn":
            ledger.learn(told[amount % len(told)])
        if event in ("store", "fail", "learn", "earn", "forfeit"):
            assert [ledger.account(account) for account in ACCOUNTS.values()] == before
    assert not ledger.changes()
    for node, account in ACCOUNTS.items():
        assert ledger.account(account) == Account(stored.earned[account], stored.spent[account])
        assert ledger.pending(account) == stored.pending[node] >= 0
        assert ledger.balance(account) >= 0
    assert stored.earned.total() + stored.pending.total() <= work


@given(st.lists(st.tuples(st.integers(0, 1), EVENTS.map(lambda events: events[:3]))))
def test_two_ledgers_that_know_the_same_pending_credits_make_nothing_of_nothing(turns) -> None:
    """Each of them is an honest witness of its own changes, and learns the other's totals late or never."""
    stored, work = Stored(), 100
    stored.pending[ANNA] = 100
    ledgers = [Ledger({}, {ANNA: Pending("anna", 100)}) for _ in range(2)]
    told = [Totals()]
    for number, events in [*turns, *((number, [("store", ANNA, 0)] * 2) for number in (0, 1))]:
        ledger = ledgers[number]
        for event, node, amount in events:
            happen(ledger, event, node, amount)
            work += amount if event == "earn" else 0
            if event == "learn":
                ledger.learn(told[amount % len(told)])
            elif event == "store" and (changes := ledger.changes()):
                stored.book(changes)
                told.append(stored.totals())
                ledger.stored(told[-1])
            assert all(ledger.balance(account) >= 0 for account in ACCOUNTS.values())
    assert stored.earned.total() + stored.pending.total() <= work
    for ledger in ledgers:
        ledger.learn(stored.totals())
        assert [ledger.account(account) for account in ("anna", "ben")] == [
            Account(stored.earned[account], stored.spent[account]) for account in ("anna", "ben")
        ]


def test_totals_of_others_come_in_any_order_and_own_changes_are_added() -> None:
    ledger = Ledger({"anna": Account(10, 4)}, {ANNA: Pending("anna", 7)})
    ledger.learn({"anna": (30, 4), "ben": (5, 0)})
    ledger.learn({"anna": (20, 6)})
    assert (ledger.account("anna"), ledger.account("ben")) == (Account(30, 6), Account(5, 0))
    ledger.settle(ANNA)
    ledger.changes()
    ledger.spend("anna", 1)
    assert ledger.account("anna") == Account(37, 7)
    ledger.learn({"anna": (31, 6)})
    assert ledger.account("anna") == Account(38, 7)
    ledger.stored({"anna": (31, 6)})  # another had settled what was pending
    assert ledger.account("anna") == Account(31, 7)


def test_an_account_that_asks_at_two_coordinators_does_not_owe() -> None:
    ledger = Ledger({"anna": Account(10, 0)})
    ledger.spend("anna", 10)
    ledger.learn({"anna": (10, 8)})
    assert ledger.account("anna") == Account(10, 10)
    ledger.spend("anna", 5)
    assert ledger.account("anna") == Account(10, 10)


def test_a_ledger_goes_on_from_what_was_stored() -> None:
    ledger = Ledger({"anna": Account(10, 4)}, {ANNA: Pending("anna", 7)})
    ledger.settle(ANNA)
    assert ledger.balance("anna") == 13
    changes = ledger.changes()
    assert (dict(changes.earned), dict(changes.settled)) == ({"anna": 7}, {Settled(ANNA, "anna"): 7})


def test_a_node_that_comes_back_has_what_is_stored_and_what_is_not_stored_yet() -> None:
    ledger = Ledger({}, {ANNA: Pending("anna", 100)})
    ledger.adopt(ANNA, "anna", 30)  # another has settled the rest
    ledger.adopt(BEN, "ben", 5)
    assert (ledger.pending("anna"), ledger.pending("ben")) == (30, 5)
    ledger.earn(ANNA, "anna", 4)
    ledger.changes()
    ledger.earn(ANNA, "anna", 2)
    ledger.adopt(ANNA, "anna", 30)
    assert ledger.pending("anna") == 36
    ledger.stored({})
    ledger.adopt(ANNA, "anna", 34)
    assert ledger.pending("anna") == 36
    ledger.settle(ANNA)
    ledger.adopt(ANNA, "anna", 34)
    assert ledger.pending("anna") == 0
    ledger.earn(ANNA, "anna", 1)
    ledger.forfeit(ANNA)
    ledger.adopt(ANNA, "anna", 0)
    assert ledger.pending("anna") == 0
    assert ledger.balance("anna") == 36
