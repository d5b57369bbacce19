"""A node that sends any frames in any order: it is ignored or cut, and nobody else notices."""

import asyncio
from random import Random
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from kit.newcomer import GREETING
from kit.played_node import READY, ROWS, SCORES, Node, join, make_service, one_step
from kit.runner import run
from kit.waiting import until
from potluck.coordinator.compose import SwarmService
from potluck.coordinator.sessions.session import Session
from potluck.errors import RebuildFailed, RouteLost, Unavailable
from potluck.types import Capacity, PauseReason, Speed
from potluck.wire.codec import encode
from potluck.wire.messages import FromNode, Greeting, Hello, Refusal, Scores, Step

FRAMES = 40

VALUES: dict[str, tuple[Any, ...]] = {
    "route": (1, 1, 1, 2, 0),
    "step": (0, 0, 0, 1, -1),
    "rows": (3, 3, 1, 0, -1, 2**40),
    "counts": ((1,), (1,), (), (1, 1), (0,), (2**40,)),
    "queue_s": (0.0, 0.0, 0.0, -1.0, float("nan"), 1e308),
    "compute_s": (0.0, 0.1, 0.1, -1.0, float("inf"), 1e308),
    "reason": ("", "No.", "\0\n" * 1000, *PauseReason),
    "threads": (1, 2, 0, -1, 2**40),
    "number": (0, 1, 2**40),
    "sessions": (0, 3, -1, 2**40),
    "left": (0, 0, 5, -1, 2**28, 2**40),
    "positions": (0, 3, -1, 2**40),
    "fraction": (0.0, 0.5, 1.0, 2.0, float("nan")),
    "capacity": (READY.capacity, Capacity(0, 0, 0), Capacity(2**40, 2**40, 2**40)),
    "speed": (READY.speed, Speed(0.0, 0.0), Speed(1e308, 1e-308)),
    "twin": ("twin", "", "x" * 1000),
    "layout": ("plain", ""),
    "shares": (READY.shares, "http://127.0.0.1:1", "\0"),
}
PAYLOADS = (b"", ROWS, ROWS, SCORES, SCORES, ROWS[:-1], b"\xff" * 24, np.full(6, np.nan, "<f4").tobytes())
KINDS = [kind for kind in get_args(FromNode) if kind not in (Greeting, Hello)]


def any_frame(random: Random, sessions: list[int]) -> bytes:
    """Of any kind; most of its numbers are such as a good node would send."""
    if random.random() < 0.02:
        return random.choice((GREETING, b"\0", b"\0\0\0\0", random.randbytes(30)))
    kind = random.choice(KINDS)
    pools = {"session": (*sessions, *sessions, 0, 2**40), **VALUES}
    fields = {field.name: random.choice(pools[field.name]) for field in msgspec.structs.fields(kind)}
    return encode(kind(**fields), random.choice(PAYLOADS))


class Chaos:
    """A good node, a bad one, and sessions on both."""

    def __init__(self, service: SwarmService, random: Random, good: Node) -> None:
        self.service, self.good = service, good
        self._random = random
        self._open: list[Session] = []
        self._calls: list[asyncio.Task[Any]] = []
        self._bad: Node | None = None
        self.cut = 0

    async def play(self) -> None:
        for _ in range(FRAMES):
            bad = await self._bad_node()
            await self._work(bad)
            await bad.link.send(any_frame(self._random, [session.number for session in self._open]))
            for _ in range(3):
                await asyncio.sleep(0)
            if bad.serving.done():
                await self._farewell(bad)

    async def _bad_node(self) -> Node:
        if self._bad is None:
            self._bad = await join(self.service)
        return self._bad

    async def _farewell(self, bad: Node) -> None:
        """It was cut, with one sentence."""
        await bad.serving
        message: object = None
        while not isinstance(message, Refusal):
            message = await bad.receive()
        assert message.reason
        assert bad.name not in self.service.swarm.nodes
        self._bad, self.cut = None, self.cut + 1

    async def _work(self, bad: Node) -> None:
        """Now and then something is under way at the bad node: a step, an export, an import."""
        chance = self._random.random()
        if len(self._open) < 3:
            self._open.append(await self.service.sessions.open(10, avoid=(self.good.name,)))
        session = self._random.choice(self._open)
        if chance < 0.3 and session.route[0].node != self.good.name:
            self._call(one_step(session))
        elif chance < 0.4:
            self._call(asyncio.create_task(self._fetch(bad.name, session.number)))
        elif chance < 0.5:
            self._call(asyncio.create_task(self.service.handover.bring(bad.name, session.number, b"state")))
        elif chance < 0.6:
            self._open.remove(session)
            session.close()

    async def _fetch(self, node: str, session: int) -> bytes:
        most = self.service.swarm.kv_budget.worth_moving(node, session)
        return await self.service.handover.fetch(node, session, most)

    def _call(self, task: asyncio.Task[Any]) -> None:
        self._calls.append(task)

    async def end(self) -> None:
        """All that was under way ends: with a result, or because the node is lost."""
        if self._bad is not None:
            await self._bad.leave()
        for session in self._open:
            session.close()
        for call in self._calls:
            if not call.done():
                call.cancel()  # its session was closed under it
        for result in await asyncio.gather(*self._calls, return_exceptions=True):
            assert not isinstance(result, BaseException) or isinstance(
                result, RouteLost | RebuildFailed | Unavailable | asyncio.CancelledError
            )


async def good_answer(service: SwarmService, good: Node, bad: str) -> None:
    """A session on the good node gives what it always gives."""
    session = await service.sessions.open(10, avoid=(bad,))
    assert session.route[0].node == good.name
    result = one_step(session)
    while not isinstance(step := await good.receive(), Step) or step.session != session.number:
        pass  # what the bad node's sessions left here
    await good.send(Scores(step.session, step.route, step.step, (1,), 0.0, 0.0), SCORES)
    [candidates] = await result
    assert candidates.best(1) == ((4, -0.5),)
    session.close()


def leaks(service: SwarmService) -> dict[str, object]:
    """What is still there of sessions and nodes."""
    held = {
        "nodes": service.swarm.nodes,
        "flights": service.relay._flights,
        "results": service.pending._futures,
        "outboxes": service.lobby.outboxes._outboxes,
        "stays": service.lobby.stays._stays,
        "places": service.payers._places,
        "handover": service.handover._pending,
        "watch": range(service.lookout.watched),
        "tickets": service.lobby.tickets._models,
        "line": service.queue,
    }
    return {name: what for name, what in held.items() if len(what)}  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(60))
def test_any_frames_of_a_node_harm_nobody_else(seed: int) -> None:
    async def test() -> None:
        service = make_service()
        good = await join(service)
        chaos = Chaos(service, Random(seed), good)
        await chaos.play()
        await good_answer(service, good, chaos._bad.name if chaos._bad else "")
        await chaos.end()
        assert good.name in service.swarm.nodes
        assert service.swarm.nodes[good.name].reserved == {}
        await good.leave()
        await until(lambda: not service.handover._pending)
        assert leaks(service) == {}

    run(test())


def test_most_bad_nodes_are_cut_and_some_frames_are_good() -> None:
    """Or the test above would show nothing."""
    cut: list[int] = []
    done: list[bool] = []

    async def test(seed: int) -> None:
        service = make_service()
        chaos = Chaos(service, Random(seed), await join(service))
        await chaos.play()
        cut.append(chaos.cut)
        done.extend(call.done() and not call.cancelled() and call.exception() is None for call in chaos._calls)
        await chaos.end()
        await chaos.good.leave()

    for seed in range(10):
        run(test(seed))
    assert sum(cut) > 30
    assert sum(done) > 10
