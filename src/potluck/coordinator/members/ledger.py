"""Credits that accounts earned by computing and spent by asking, and the results of nodes' audits.

A credit is a layer-token: one position through one layer. The ledger has no clock and no I/O: it says what to store,
and is told what is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Totals = dict[str, tuple[int, int]]
"""What accounts have earned and spent, as it is stored."""


@dataclass(frozen=True, slots=True)
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


class Settled(NamedTuple):
    """A node whose work was taken to be right, and the account that it was for."""

    node: bytes
    account: str


Kind = Literal["earned", "spent", "pending", "settled", "forfeited", "passed", "failed"]
"""The counts of `Changes`."""
Whose = bytes | str | Settled
Note = Callable[[Kind, Whose, int], None]


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes to add to the stored figures: those of accounts by name, and those of nodes by key.

    pending: the credits that were added. settled, forfeited: those that are pending no longer, as far as they are
    pending in the store: another coordinator may have settled them.
    earned: what accounts earn by `settled` if the store agrees.
    """

    earned: Counter[str] = field(default_factory=Counter)
    spent: Counter[str] = field(default_factory=Counter)
    pending: Counter[bytes] = field(default_factory=Counter)
    settled: Counter[Settled] = field(default_factory=Counter)
    forfeited: Counter[bytes] = field(default_factory=Counter)
    passed: Counter[bytes] = field(default_factory=Counter)
    failed: Counter[bytes] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        counts = (self.spent, self.pending, self.settled, self.forfeited, self.passed, self.failed)
        return any(any(count.values()) for count in counts)

    def add(self, kind: Kind, whose: Whose, amount: int) -> None:
        getattr(self, kind)[whose] += amount

    @property
    def nodes(self) -> set[bytes]:
        """The keys of the nodes whose figures have changed."""
        taken = {settled.node for settled in self.settled} | self.forfeited.keys()
        return self.pending.keys() | self.passed.keys() | self.failed.keys() | taken

    @property
    def accounts(self) -> set[str]:
        """The names of the accounts whose figures may have changed."""
        return self.earned.keys() | self.spent.keys()

    def left(self, node: bytes, account: str, pending: int) -> int:
        """What is pending for a node after these changes. pending: before them."""
        return max(0, pending + self.pending[node] - self.settled[Settled(node, account)] - self.forfeited[node])


class Ledger:
    """Keeps all accounts in memory, because every hop of every token is booked.

    What it says of an account are the stored totals and the changes that are not stored yet.
    """

    def __init__(
        self,
        accounts: Mapping[str, Account] | None = None,
        pending: Mapping[bytes, Pending] | None = None,
        note: Note = lambda *_: None,
    ) -> None:
        """note: is told of every change."""
        self._totals = dict(accounts or {})
        self._pending = dict(pending or {})
        self._note = note
        self._batch = Changes()
        """The changes that are being stored, or that could not be stored."""
        self._changes = Changes()
        """The changes since then."""

    def earn(self, node: bytes, account: str, layer_tokens: int) -> None:
        """Note the node's work for the account. It counts once an audit has covered it."""
        held = self._pending.get(node, Pending(account, 0))
        self._pending[node] = Pending(account, held.credits + layer_tokens)
        self._change("pending", node, layer_tokens)

    def adopt(self, node: bytes, account: str, pending: int) -> None:
        """Note what the store says is pending for a node: other coordinators may have added to it, or settled it.

        What is not stored yet here comes to it.
        """
        for changes in (self._batch, self._changes):
            pending = changes.left(node, account, pending)
        self._pending.pop(node, None)
        if pending:
            self._pending[node] = Pending(account, pending)

    def audited(self, node: bytes, *, passed: bool) -> None:
        """Note the result of an audit of the node with this key."""
        self._change("passed" if passed else "failed", node, 1)

    def settle(self, node: bytes) -> None:
        """Take the node's work to be right: what is pending belongs to its account."""
        held = self._pending.pop(node, None)
        if held is not None:
            self._change("settled", Settled(node, held.account), held.credits)
            self._change("earned", held.account, held.credits)

    def forfeit(self, node: bytes) -> None:
        """Take the node's work to be wrong, as an audit found: what is pending is lost."""
        held = self._pending.pop(node, None)
        if held is not None:
            self._change("forfeited", node, held.credits)

    def spend(self, account: str, layer_tokens: int) -> None:
        """Charge the account for work. It pays as far as its credits go, because asking is never refused for lack of
        them.
        """
        paid = min(layer_tokens, self.balance(account))
        if paid:
            self._change("spent", account, paid)

    def _change(self, kind: Kind, whose: Whose, amount: int) -> None:
        self._changes.add(kind, whose, amount)
        self._note(kind, whose, amount)

    def balance(self, account: str) -> int:
        return self.account(account).balance

    def account(self, name: str) -> Account:
        """The account as it stands; all zeros for an unknown one. It has never spent more than it has earned, even if
        it asks at two coordinators at once.
        """
        stored = self._totals.get(name, Account())
        earned = stored.earned + self._batch.earned[name] + self._changes.earned[name]
        spent = stored.spent + self._batch.spent[name] + self._changes.spent[name]
        return Account(earned, min(spent, earned))

    def pending(self, account: str) -> int:
        """The pending credits of all nodes of the account."""
        return sum(held.credits for held in self._pending.values() if held.account == account)

    def changes(self) -> Changes:
        """The changes to store next. They are the same at each call until `stored` is called: later ones wait."""
        if not self._batch:
            self._batch, self._changes = self._changes, Changes()
        return self._batch

    def stored(self, totals: Totals) -> None:
        """Note that these changes are stored. totals: those of their accounts, which include them."""
        self._batch = Changes()
        self.learn(totals)

    def learn(self, totals: Totals) -> None:
        """Take notice of stored totals, whoever stored them. They only grow, so their order does not matter.

        Own changes of which it is not known that they are stored, although they are, count twice until that is known.
        """
        for name, (earned, spent) in totals.items():
            known = self._totals.get(name, Account())
            self._totals[name] = Account(max(earned, known.earned), max(spent, known.spent))
