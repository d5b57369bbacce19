import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.requests import Request

from kit.runner import run
from kit.waiting import until
from potluck.coordinator.http.bodies import Bodies, Body, Shares, body_is_read
from potluck.coordinator.http.pool import Pool
from potluck.coordinator.http.rota import Asker
from potluck.local import HANG_S

PART = 64 << 10
ANNA, BERT = Asker("anna"), Asker("bert")


def begun(shares: Shares, whose: Asker = ANNA, length: int = 100 * PART) -> Body:
    body = Body(length)
    shares.begin(whose, body)
    return body


def test_every_account_has_an_equal_share() -> None:
    shares = Shares(100 * PART)
    begun(shares).size = 40 * PART
    second = begun(shares)
    second.size = 59 * PART
    assert shares.fits(ANNA, second)
    second.size += 1
    assert not shares.fits(ANNA, second)
    second.size = 9 * PART
    first = begun(shares, BERT)
    assert shares.fits(ANNA, second)
    second.size += PART
    assert not shares.fits(ANNA, second)
    assert shares.fits(BERT, first)


@pytest.mark.parametrize("length", [0, PART])
def test_a_short_body_does_not_wait(length: int) -> None:
    shares = Shares(100 * PART)
    begun(shares).size = 100 * PART
    body = begun(shares, length=length)
    body.size = PART - 1
    assert shares.fits(ANNA, body)
    assert not shares.fits(ANNA, begun(shares, length=PART + 1))
    body.size += 1
    assert shares.fits(ANNA, body) == bool(length)


def test_the_oldest_body_of_an_account_always_goes_on() -> None:
    shares = Shares(100 * PART)
    first, second = begun(shares), begun(shares)
    first.size = second.size = 60 * PART
    assert shares.fits(ANNA, first)
    assert not shares.fits(ANNA, second)
    shares.end(ANNA, first)
    assert shares.fits(ANNA, second)


def test_of_those_without_an_account_few_go_on_at_once() -> None:
    shares = Shares(PART)
    strangers = [Asker(f"192.0.2.{number}", stranger=True) for number in range(6)]
    bodies = [begun(shares, stranger) for stranger in strangers]
    assert [shares.fits(*each) for each in zip(strangers, bodies, strict=True)] == [True] * 4 + [False] * 2
    assert shares.fits(ANNA, begun(shares))
    shares.end(strangers[1], bodies[1])
    assert [shares.fits(*each) for each in zip(strangers[4:], bodies[4:], strict=True)] == [True, False]


class Client:
    """Sends the parts of a body when the test says so.

    read: what the service does with a body that is complete. length: of the body, 0 if there is none.
    """

    def __init__(
        self,
        bodies: Bodies,
        whose: Asker,
        read: Callable[[Request], Awaitable[None]] | None = None,
        *,
        length: int = 200 * PART,
    ) -> None:
        self._parts: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
        self._headers = [(b"content-length", str(length).encode())]
        self._read = read
        self.received = 0
        self.task = asyncio.create_task(self._run(bodies, whose))

    def send(self, size: int, *, more: bool = True) -> None:
        self._parts.put_nowait((bytes(size), more))

    async def _receive(self) -> dict[str, object]:
        body, more = await self._parts.get()
        return {"type": "http.request", "body": body, "more_body": more}

    async def _run(self, bodies: Bodies, whose: Asker) -> None:
        scope = {"type": "http", "headers": self._headers}
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
        first = Client(bodies, ANNA)
        first.send(100 * PART)
        await until(lambda: first.received == 100 * PART)
        second, other = Client(bodies, ANNA), Client(bodies, BERT)
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
        first = Client(bodies, ANNA, read)
        first.send(100 * PART, more=False)
        await until(lambda: first.received == 100 * PART)
        second = Client(bodies, ANNA)
        second.send(70 * PART, more=False)
        third = Client(bodies, ANNA, length=PART)
        third.send(PART, more=False)
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
            await pool.run(ANNA, lambda: None)
            body_is_read(request)
            await answered.wait()

        answered = asyncio.Event()
        clients = [Client(bodies, ANNA, read) for _ in range(100)]
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

        watcher, client = Client(bodies, ANNA, watch, length=0), Client(bodies, ANNA)
        watcher.send(0, more=False)
        await asyncio.sleep(0)
        client.send(200 * PART, more=False)
        await client.task
        assert not watcher.task.done()
        ended.set()
        await watcher.task

    run(test())
