from potluck.coordinator.members.ledger import Account, Ledger
from potluck.coordinator.sessions.claim import Claim, Rank
from potluck.coordinator.sessions.fair_queue import FairQueue
from potluck.coordinator.sessions.line import Line
from potluck.coordinator.sessions.payers import Payers

LAYERS = 4


def test_an_account_pays_once_when_its_answer_ends() -> None:
    queue, ledger = FairQueue(), Ledger({"anna": Account(earned=100)})
    line = Line(queue)
    payers = Payers(line, ledger, LAYERS)
    place = line.join(Claim("anna"), 40.0)
    payers.begin(7, place)
    line.leave(place)
    assert (payers.account_of(7), payers.account_of(8)) == ("anna", None)
    assert queue.runs(Rank.INTERACTIVE)
    payers.settle(7, 5)
    payers.settle(7, 5)
    payers.settle(8, 5)
    assert (payers.account_of(7), ledger.balance("anna")) == (None, 100 - 5 * LAYERS)
    assert not queue.runs(Rank.INTERACTIVE)
