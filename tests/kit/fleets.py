"""Coordinators of one fleet in this process, whole but for their command, and real nodes that serve them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

from starlette.routing import WebSocketRoute

from kit.newcomer import introduce
from kit.played_node import READY
from kit.waiting import until
from kit.webserver import serving
from potluck.coordinator.app import ModelConfig, ServeConfig, make_app
from potluck.coordinator.fleet.fleet import Fleet
from potluck.coordinator.fleet.nats_bus import NatsBus
from potluck.coordinator.fleet.records import Record
from potluck.coordinator.gateway.gateway import Gateway
from potluck.coordinator.http.office import open_office
from potluck.coordinator.members.store import Store
from potluck.coordinator.swarm.swarm import Swarm
from potluck.errors import LinkClosed
from potluck.models.sources import Found, open_model
from potluck.node.agent import Agent
from potluck.node.config import NodeConfig
from potluck.node.room import Room
from potluck.types import Audience, Coordinator, Span
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.identity import Identity
from potluck.wire.link import MemoryLink
from potluck.wire.messages import Hello, Ping, Pong, Welcome


class Member:
    """A coordinator of the fleet, whose NATS server nobody runs: the test says which others there are."""

    def __init__(self, model: Path, store: Store, audience: Audience = Audience.LOCAL, context: int = 64) -> None:
        self._identity = Identity.fresh()
        self._running = AsyncExitStack()
        self.url = ""
        self._fleet = Fleet(
            NatsBus(("nats://127.0.0.1:1",)), Identity.fresh(), self._identity.public, "", clock=lambda: 0.0
        )
        self._fleet._put_at = 0.0  # as if it had told the others of itself a moment ago
        self._numbers = itertools.count()
        self.office = self._running.enter_context(closing(open_office(store, audience, self._identity, "")))
        choices = ModelConfig(Found(model), audit=0.0, context=context)
        self._app = make_app(ServeConfig(models=(choices,)), [open_model(model)], self.office, fleet=self._fleet)
        [self.gateway] = [
            route.app
            for route in self._app.routes
            if isinstance(route, WebSocketRoute) and isinstance(route.app, Gateway)
        ]

    def knows(self, *others: Coordinator) -> None:
        """Let these be the others, of which its nodes are told."""
        known = self._fleet.others
        gone = [(each.url, each.key, True) for each in known]
        for url, key, is_gone in [*gone, *((other.url, other.key, False) for other in others)]:
            record = Record(key, url, "0.1", 0.0, next(self._numbers), 0.0, gone=is_gone)
            self._fleet.directory.note(record, 0.0)
        self._fleet.changed.tell(None)

    @property
    def told(self) -> Coordinator:
        """This one as others name it."""
        return Coordinator(self.url, self._identity.public)

    @property
    def swarm(self) -> Swarm:
        return self.gateway._gates[0].swarm

    async def serve(self) -> Member:
        self.url = f"http://127.0.0.1:{(await self._running.enter_async_context(serving(self._app))).port}"
        return self

    async def stop(self) -> None:
        """End, with all links, for good."""
        for stop in self._app.state.stops:
            stop()
        await self._running.aclose()

    @asynccontextmanager
    async def with_twin(self, span: Span) -> AsyncIterator[None]:
        """Another node serves these layers meanwhile, which the test plays: it never computes."""
        link, theirs = MemoryLink.pair()
        stay = asyncio.create_task(self.gateway.serve(theirs))
        await introduce(link, Hello("twin", "0.1", "", span, 1 << 40, 1), Identity.fresh())
        playing = asyncio.create_task(_play(link))
        await until(lambda: all(self.swarm.served()[span.first : span.last + 1]))
        try:
            yield
        finally:
            await link.close()
            await playing
            await stay


async def _play(link: MemoryLink) -> None:
    while True:
        try:
            message, payload = decode_from_coordinator(await link.receive())
        except LinkClosed:
            return
        match message:
            case Welcome():
                await link.send(encode(READY))
            case Ping(number):
                await link.send(encode(Pong(number, 0), bytes(payload)))


class Owner:
    """The owner of a node of this process, who is told these lines."""

    def __init__(self, url: str, **choices: Any) -> None:
        self.lines: list[str] = []
        chosen = {"name": "anna", "span": None, "model": None, "room": Room(1 << 30), "threads": 1, **choices}
        self.config = NodeConfig(url=url, **{"identity": Identity.fresh(), "on_battery": True, **chosen})

    def say(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, what: str, fraction: float | None) -> None:
        """Nobody looks."""

    def count(self, text: str) -> int:
        """The lines that contain the text."""
        return sum(text in line for line in self.lines)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Agent]:
        """Its node runs meanwhile, and leaves at the end."""
        agent = Agent(self.config, self)
        task = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            agent.leave()
            await asyncio.gather(task, return_exceptions=True)
            if agent._loaded is not None:
                agent._loaded.engine.unload()
            for file in agent._cores._files.values():  # which otherwise end with the process
                file.close()

    async def serves(self, url: str, times: int = 1) -> None:
        """Wait until the node serves there for this time."""
        await until(lambda: self.count(f" of {url}.") >= times)
