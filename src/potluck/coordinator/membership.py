"""Makes a coordinator a member of its fleet: says what it tells the others, and does what it hears from them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from potluck.coordinator.compose import SwarmService
from potluck.coordinator.fleet.fleet import Fleet, Share
from potluck.coordinator.fleet.passes import Passes
from potluck.coordinator.fleet.places import Places
from potluck.coordinator.fleet.records import Marked, ModelRecord, News, Usage, runs_of
from potluck.coordinator.fleet.shelf import FleetShelf
from potluck.coordinator.gateway.driver import Caught
from potluck.coordinator.gateway.gateway import Gateway
from potluck.coordinator.gateway.lobby import Lobby
from potluck.coordinator.gateway.moderation import Moderation
from potluck.coordinator.giving import Giving
from potluck.coordinator.http.admin import Marks
from potluck.coordinator.http.forwarding import Forwarding
from potluck.coordinator.http.office import Office
from potluck.types import NodeState

_REVOKED = "The swarm's owner has revoked this node."


class Membership:
    """The membership of one coordinator. runs: what runs its models. office: shared by the fleet, as the database is.

    places: say where requests are served. forwarding: hands them over. shelf: keeps answers that are under way.
    """

    def __init__(
        self,
        fleet: Fleet,
        runs: Sequence[SwarmService],
        office: Office,
        moderation: Moderation,
        lobby: Lobby,
        gateway: Gateway,
    ) -> None:
        self.fleet = fleet
        self.passes = Passes(fleet.key, fleet.own)
        self.places = Places(fleet)
        self.forwarding = Forwarding(self.places, self.passes)
        self.shelf = FleetShelf(fleet.bus)
        self._runs = runs
        self._office = office
        self._moderation = moderation
        self._lobby = lobby
        self._giving = Giving(fleet, [running.gate for running in runs], gateway.redirect)
        self._totals = dict(office.books.recovered)
        """The credits of accounts that were stored, and of which the others have not been told."""
        self._caught: set[bytes] = set()
        """The keys of nodes that were caught, of which all coordinators know."""
        office.books.stored.listen(self._totals.update)
        lobby.caught.listen(self._tell_caught)
        fleet.changed.listen(lambda _: gateway.tell_fleet())

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Take part in the fleet while the block runs. Raises IdentityError when it has another key."""
        share = Share(models=self._records, usage=self._usage, hear=self._hear, catch_up=self._catch_up)
        async with self.forwarding.kept(), self.fleet.kept(share):
            giving = asyncio.create_task(self._giving.run())
            try:
                yield
            finally:
                giving.cancel()
                with suppress(asyncio.CancelledError):
                    await giving

    def urls(self) -> list[str]:
        """The URLs of the other coordinators."""
        return [record.url for record in self.fleet.others]

    def tell(self, key: bytes, marks: Marks) -> None:
        """Tell the others how the owner has marked a node."""
        if marks.revoked is False:
            self._caught.discard(key)
        self.fleet.tell(Marked(key, trusted=marks.trusted, revoked=marks.revoked))

    def _tell_caught(self, caught: Caught) -> None:
        if caught.key not in self._caught:
            self._caught.add(caught.key)
            self.fleet.tell(Marked(caught.key, quarantine=caught.reason))

    def _records(self) -> tuple[ModelRecord, ...]:
        """What is served here now."""
        return tuple(map(_record, self._runs))

    def _usage(self) -> Usage:
        """What was used here since this was last called."""
        totals = dict(self._totals)
        self._totals.clear()
        shares = {
            running.swarm.digest: tuple((rank, account, share) for (rank, account), share in taken.items())
            for running in self._runs
            if (taken := running.queue.taken())
        }
        return Usage(totals, self._office.policy.taken(), shares)

    def _hear(self, news: News) -> None:
        """Take what another coordinator tells."""
        match news:
            case Usage():
                self._used_elsewhere(news)
            case Marked():
                self._marked(news)

    def _used_elsewhere(self, usage: Usage) -> None:
        self._office.books.ledger.learn(usage.accounts)
        self._office.policy.taken_elsewhere(usage.limits)
        for running in self._runs:
            shares = usage.shares.get(running.swarm.digest, ())
            running.line.taken_elsewhere({(rank, account): share for rank, account, share in shares})

    def _marked(self, news: Marked) -> None:
        if news.revoked:
            self._moderation.cut(news.key, _REVOKED)
        elif news.revoked is False:
            self._caught.discard(news.key)
            self._moderation.pardon(news.key)
        if news.quarantine is not None and news.key not in self._caught:
            self._caught.add(news.key)
            self._lobby.caught.tell(Caught(news.key, news.quarantine))
        if news.trusted is not None:
            self._moderation.trust(news.key, trusted=news.trusted)

    async def _catch_up(self) -> None:
        """Learn from the database what the others have stored: credits, and how nodes that are here are marked."""
        await self._office.books.reread()
        shut = (self._lobby.entrance.shut_out | self._caught) - self._office.books.caught
        known = {key.hex() for key in self._lobby.stays.keys | shut}
        marked = await self._office.desks.owner.ask(self._office.members.with_keys, known)
        still = set()
        for member in marked:
            quarantine = member.quarantine if member.quarantined_until > time.time() else None
            self._marked(Marked(bytes.fromhex(member.key), member.trusted, member.revoked or None, quarantine))
            if member.revoked or quarantine is not None:
                still.add(bytes.fromhex(member.key))
        for key in shut - still:  # the owner has readmitted it, and nobody could say so
            self._marked(Marked(key, revoked=False))


def _record(running: SwarmService) -> ModelRecord:
    swarm = running.swarm
    return ModelRecord(
        names=running.gate.names,
        digest=swarm.digest,
        context=running.terms.context,
        served=runs_of(swarm.served()),
        loading=any(node.state is NodeState.LOADING for node in swarm.nodes.values()),
        waiting=len(running.queue),
        streams=swarm.kv_budget.streams,
        state=running.gate.state,
    )
