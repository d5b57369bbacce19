"""Knows who pays for which open session, by keeping the request's place until its answer ends."""

from __future__ import annotations

from potluck.coordinator.members.ledger import Ledger
from potluck.coordinator.sessions.line import Line, Place


class Payers:
    """The payers of open sessions. ledger: where accounts pay for what they asked, in tokens times layers."""

    def __init__(self, line: Line, ledger: Ledger, layers: int) -> None:
        self._line = line
        self._ledger = ledger
        self._layers = layers
        self._places: dict[int, Place] = {}
        """The places of the requests whose sessions are open."""

    def begin(self, number: int, place: Place) -> None:
        """Note that the request in this place has found room in the session of this number. `settle` it afterwards."""
        self._line.start(place)
        self._places[number] = place

    def account_of(self, number: int) -> str | None:
        """The account that pays for this session's computation now; None for an audit's, or one that has ended."""
        place = self._places.get(number)
        return None if place is None else place.turn.claim.account

    def settle(self, number: int, tokens: int) -> None:
        """Let the account pay for this many tokens, when the session's answer has ended and was not settled before."""
        place = self._places.pop(number, None)
        if place is not None:
            self._line.end(place, tokens * self._layers)
            self._ledger.spend(place.turn.claim.account, tokens * self._layers)
