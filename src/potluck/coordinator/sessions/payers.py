"""Who pays for which open session: its place is kept until its answer ends."""

from __future__ import annotations

from potluck.coordinator.members.ledger import Ledger
from potluck.coordinator.sessions.line import Line, Place


class Payers:
    """ledger: where accounts pay for what they asked, in tokens times layers."""

    def __init__(self, line: Line, ledger: Ledger, layers: int) -> None:
        self._line = line
        self._ledger = ledger
        self._layers = layers
        self._places: dict[int, Place] = {}
        """Of the requests whose sessions are open."""

    def begin(self, number: int, place: Place) -> None:
        """The request in this place has found room in a session of this number. `settle` it."""
        self._line.start(place)
        self._places[number] = place

    def account_of(self, number: int) -> str | None:
        """Who pays for what the nodes compute in this session now; None for an audit's, or one that has ended."""
        place = self._places.get(number)
        return None if place is None else place.turn.claim.account

    def settle(self, number: int, tokens: int) -> None:
        """The answer that ran in this session has ended, if it has not before: its account pays for so many tokens."""
        place = self._places.pop(number, None)
        if place is not None:
            self._line.end(place, tokens * self._layers)
            self._ledger.spend(place.turn.claim.account, tokens * self._layers)
