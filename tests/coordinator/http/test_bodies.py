import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.requests import Request

from kit.runner import run
from kit.waiting import until
from potluck.coordinator.http.bodies import Bodies, Body, Shares, body_is_read
from potluck.coordinator.http.pool import Pool
from potluck.coordinator.http.rota import Asker
from potluck.errors import RequestError
from potluck.local import HANG_S

PART = 10 << 10
"""Bodies of more than six of these have to wait."""


def begun(shares: Shares, whose: str) -> Body:
    body = Body()
    shares.begin(whose, body)
    return body


def test_every_account_has_an_equal_share() -> None:
    shares = Shares(100 * PART)
    begun(shares, "anna").size = 40 * PART
    second = begun(shares, "anna")
    assert shares.fits("anna", second, 60 * PART)
    assert not shares.fits("anna", second, 61 * PART)
    first = begun(shares, "bert")
    assert not shares.fits("anna", second, 11 * PART)
    assert shares.fits("bert", first, 50 * PART)


def test_a_short_body_does_not_wait() -> None:
    shares = Shares(100 * PART)
    begun(shares, "anna").size = 100 * PART
    second = begun(shares, "anna")
    assert shares.fits("anna", second, 6 * PART)
    assert not shares.fits("anna", second, 7 * PART)


def test_the_oldest_body_of_an_account_always_goes_on() -> None:
    shares = Shares(100 * PART)
    first, second = begun(shares, "anna"), begun(shares, "anna")
    first.size = second.size = 60 * PART
    assert shares.fits("anna", first, 1000 * PART)
    assert not shares.fits("anna", second, 5 * PART)
    shares.end("anna", first)
    assert shares.fits("anna", second, 1000 * PART)


def test_the_unfinished_bodies_of_an_account_are_counted() -> None:
    shares = Shares()
    bodies = [begun(shares, "anna") for _ in range(33)]
    assert [shares.may_go_on("anna", body) for body in bodies] == [True] * 32 + [False]
    assert shares.may_go_on("bert", begun(shares, "bert"))
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
    """Sends the parts of a body when the test says so. read: what the service does with a body that is complete."""

    def __init__(self, bodies: Bodies, whose: str, read: Callable[[Request], Awaitable[None]] | None = None) -> None:
        self._parts: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
        self._read = read
        self.received = 0
        self.task = asyncio.create_task(self._run(bodies, whose))

    def send(self, size: int, *, more: bool = True) -> None:
        self._parts.put_nowait((bytes(size), more))

    async def _receive(self) -> dict[str, object]:
        body, more = await self._parts.get()
        return {"type": "http.request", "body": body, "more_body": more}

    async def _run(self, bodies: Bodies, whose: str) -> None:
        scope = {"type": "http", "headers": []}
        with bodies.received(whose, scope, self._receive) as receive:
            more = True
            while more:
                message = await receive()
                self.received += len(message["body"])
                more = message["more_body"]
            if self._read is not None:
                await self._read(Request(scope))


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


def test_a_complete_body_takes_room_until_it_is_read() -> None:
    async def test() -> None:
        is_read, answered = asyncio.Event(), asyncio.Event()

        async def read(request: Request) -> None:
            await is_read.wait()
            body_is_read(request)
            await answered.wait()

        bodies = Bodies(Shares(100 * PART))
        first, second = Client(bodies, "anna", read), Client(bodies, "anna")
        first.send(90 * PART, more=False)
        await until(lambda: first.received == 90 * PART)
        second.send(70 * PART, more=False)
        third = Client(bodies, "anna")
        third.send(6 * PART, more=False)
        await third.task
        assert second.received == 0
        is_read.set()
        await second.task
        assert not first.task.done()
        answered.set()
        await first.task

    run(test())


def test_many_complete_bodies_of_one_account_are_read_one_after_the_other() -> None:
    """Each of them alone is more than the account's share, and no two of them are ever held at once."""

    async def test() -> None:
        bodies, pool, held = Bodies(Shares(100 * PART)), Pool(), list[int]()

        async def read(request: Request) -> None:
            held.append(sum(client.received for client in clients) - 200 * PART * len(held))
            await pool.run(Asker("anna"), lambda: None)
            body_is_read(request)
            await answered.wait()

        answered = asyncio.Event()
        clients = [Client(bodies, "anna", read) for _ in range(100)]
        for client in clients:
            client.send(150 * PART)
            client.send(50 * PART, more=False)
        async with asyncio.timeout(HANG_S):
            await until(lambda: len(held) == 100)
            answered.set()
            await asyncio.gather(*(client.task for client in clients))
        assert held == [200 * PART] * 100

    run(test())


def test_a_request_without_a_body_is_never_the_oldest() -> None:
    async def test() -> None:
        bodies, ended = Bodies(Shares(100 * PART)), asyncio.Event()

        async def watch(_: Request) -> None:
            await ended.wait()

        watcher, client = Client(bodies, "anna", watch), Client(bodies, "anna")
        watcher.send(0, more=False)
        await asyncio.sleep(0)
        client.send(200 * PART, more=False)
        await client.task
        assert not watcher.task.done()
        ended.set()
        await watcher.task

    run(test())
