"""The account that a request runs on, and what that account has earned and spent."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from potluck.coordinator.http.auth import caller_of
from potluck.coordinator.http.monitoring import readable
from potluck.coordinator.members.desk import Desk
from potluck.coordinator.members.ledger import Ledger
from potluck.coordinator.members.members import Members
from potluck.coordinator.sessions.claim import Claim, Rank, weight_of
from potluck.coordinator.watching.status import account_status
from potluck.types import Priority


@dataclass(frozen=True)
class Accounts:
    ledger: Ledger
    members: Members
    desk: Desk

    async def account(self, request: Request) -> Response:
        """GET /v1/account: what the caller's account has earned and spent, and the nodes that earn for it."""
        name = caller_of(request).account
        nodes = await self.desk.ask(self.members.of_account, name)
        told = account_status(name, self.ledger.account(name), self.ledger.pending(name), nodes)
        return readable(msgspec.json.encode(told))

    def claim(self, request: Request, priority: Priority) -> Claim:
        """The claim of a request. Credits that its account has earned and not spent give it weight."""
        caller = caller_of(request)
        rank = Rank.of(priority, anonymous=caller.anonymous)
        return Claim(caller.account, rank, weight_of(self.ledger.balance(caller.account)))
