"""What nodes earn for guesses, and what accounts pay for them. Nobody earns by requests of their own."""

from collections.abc import Iterable

from potluck.coordinator.gateway.meter import Meter
from potluck.coordinator.members.door import Entry
from potluck.coordinator.members.ledger import Account, Ledger
from potluck.coordinator.relay.trace import Hop
from potluck.coordinator.sessions.claim import Claim
from potluck.coordinator.sessions.fair_queue import FairQueue
from potluck.coordinator.sessions.line import Line
from potluck.coordinator.sessions.payers import Payers
from potluck.coordinator.swarm.heartbeat import Heartbeat
from potluck.coordinator.swarm.node import Node
from potluck.coordinator.swarm.tally import Tally
from potluck.types import Span

LAYERS = 4
SPAN = Span(0, LAYERS - 1)
SESSION = 7


class NoAudits:
    """Stands in for the auditor. rows: of the steps that it heard of."""

    def __init__(self) -> None:
        self.rows = 0

    def stepped(self, _: bytes, hops: Iterable[Hop]) -> None:
        self.rows += sum(hop.rows for hop in hops)


class Books:
    """One node that serves all layers, and one request of another account."""

    def __init__(self) -> None:
        self.tally, self.auditor = Tally(), NoAudits()
        self.ledger = Ledger({"anna": Account(earned=1000)})
        self.payers = Payers(line := Line(FairQueue()), self.ledger, LAYERS)
        place = line.join(Claim("anna"), 40.0)
        self.payers.begin(SESSION, place)
        line.leave(place)
        nodes = {
            name: Node(name, "", SPAN, 1, 0, 0.0, key=name.encode(), entry=Entry(account, trusted=False))
            for name, account in (("n1", "ben"), ("n2", "anna"))
        }
        auditor: object = self.auditor
        self.meter = Meter(nodes, self.tally, Heartbeat(), self.ledger, self.payers, auditor)  # type: ignore[arg-type]

    def take(self, node: str, step: int, *, guessed: bool) -> None:
        """The coordinator takes an answer of this node."""
        hop = Hop(SESSION, step, 0, 1, node, SPAN, 1, step, 0.0, 0.1, 0.0, 0.1, guessed)
        self.meter.note(node, [hop])


def test_a_node_earns_for_guesses_that_arrive_and_accounts_pay_for_tokens() -> None:
    books = Books()
    books.take("n1", 0, guessed=False)
    for step in (1, 2, 3):  # of which only the first turns out to be right
        books.take("n1", step, guessed=True)
    books.payers.settle(SESSION, tokens=2)
    assert books.ledger.pending("ben") == 4 * LAYERS
    assert books.ledger.balance("anna") == 1000 - 2 * LAYERS
    assert (books.tally.rows, books.auditor.rows) == (4, 4)


def test_nobody_earns_by_the_guesses_about_an_answer_of_ones_own() -> None:
    books = Books()
    for guessed in (False, True):
        books.take("n2", 0, guessed=guessed)
    assert books.ledger.pending("anna") == 0
