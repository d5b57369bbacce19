import asyncio
from collections.abc import Callable

import pytest

from kit.runner import run
from kit.waiting import until
from potluck.coordinator.http.bodies import Bodies, Shares
from potluck.errors import RequestError

PART = 10 << 10
"""Bodies of more than six of these have to wait."""


def test_every_account_has_an_equal_share() -> None:
    shares = Shares(100 * PART)
    shares.begin("anna").size = 40 * PART
    second = shares.begin("anna")
    assert shares.fits("anna", second, 60 * PART)
    assert not shares.fits("anna", second, 61 * PART)
    first = shares.begin("bert")
    assert not shares.fits("anna", second, 11 * PART)
    assert shares.fits("bert", first, 50 * PART)


def test_a_short_body_does_not_wait() -> None:
    shares = Shares(100 * PART)
    shares.begin("anna").size = 100 * PART
    second = shares.begin("anna")
    assert shares.fits("anna", second, 6 * PART)
    assert not shares.fits("anna", second, 7 * PART)


def test_the_oldest_body_of_an_account_always_goes_on() -> None:
    shares = Shares(100 * PART)
    first, second = shares.begin("anna"), shares.begin("anna")
    first.size = second.size = 60 * PART
    assert shares.fits("anna", first, 1000 * PART)
    assert not shares.fits("anna", second, 5 * PART)
    shares.end("anna", first)
    assert shares.fits("anna", second, 1000 * PART)


def test_the_unfinished_bodies_of_an_account_are_counted() -> None:
    shares = Shares()
    bodies = [shares.begin("anna") for _ in range(33)]
    assert [shares.may_go_on("anna", body) for body in bodies] == [True] * 32 + [False]
    assert shares.may_go_on("bert", shares.begin("bert"))
    shares.end("anna", bodies[0])
    assert shares.may_go_on("anna", bodies[-1])


def test_too_many_unfinished_bodies_are_refused() -> None:
    async def test() -> None:
        bodies = Bodies()
        clients = [Client(bodies, "anna") for _ in range(33)]
        for client in clients:
            client.send(1)
        await until(lambda: any(client.task.done() for client in clients))
        [refused] = [client for client in clients if client.task.done()]
        with pytest.raises(RequestError, match="More than 32 requests"):
            await refused.task
        for client in clients:
            client.send(1, more=False)
        await asyncio.gather(*(client.task for client in clients if client is not refused))

    run(test())


class Client:
    """Sends the parts of a body when the test says so."""

    def __init__(self, bodies: Bodies, whose: str) -> None:
        self._parts: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
        self.received = 0
        self.task = asyncio.create_task(self._run(bodies, whose))

    def send(self, size: int, *, more: bool = True) -> None:
        self._parts.put_nowait((bytes(size), more))

    async def _receive(self) -> dict[str, object]:
        body, more = await self._parts.get()
        return {"type": "http.request", "body": body, "more_body": more}

    async def _run(self, bodies: Bodies, whose: str) -> None:
        with bodies.received(whose, self._receive) as receive:
            more = True
            while more:
                message = await receive()
                self.received += len(message["body"])
                more = message["more_body"]


@pytest.mark.parametrize("end", [lambda one: one.send(1, more=False), lambda one: one.task.cancel()])
def test_a_body_waits_for_those_of_its_account_and_for_no_other(end: Callable[[Client], object]) -> None:
    async def test() -> None:
        bodies = Bodies(Shares(100 * PART))
        first, second, other = Client(bodies, "anna"), Client(bodies, "anna"), Client(bodies, "bert")
        first.send(90 * PART)
        await until(lambda: first.received == 90 * PART)
        second.send(70 * PART, more=False)
        other.send(50 * PART, more=False)
        await other.task
        assert second.received == 0
        end(first)
        await second.task
        assert second.received == 70 * PART
        await asyncio.gather(first.task, return_exceptions=True)

    run(test())
