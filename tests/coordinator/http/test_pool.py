"""Clients' work on threads: in turns, dropped with its client, and none of it on the executor of everybody."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from starlette.requests import Request

from kit.runner import run
from potluck.coordinator.http import pool as module
from potluck.coordinator.http.auth import Caller
from potluck.coordinator.http.inbound import CLIENT_GONE
from potluck.coordinator.http.pool import Pool, asker_of
from potluck.coordinator.http.rota import Asker
from potluck.errors import RequestError
from potluck.local import HANG_S

ANN, BEN, CEM = Asker("ann"), Asker("ben"), Asker("cem")


@contextmanager
def gate() -> Iterator[threading.Event]:
    """What jobs wait for; open at the end, whatever happens."""
    event = threading.Event()
    try:
        yield event
    finally:
        event.set()


def test_results_and_errors_come_back() -> None:
    async def test() -> None:
        pool = Pool()
        assert await pool.run(ANN, lambda: 1) == 1
        with pytest.raises(ZeroDivisionError):
            await pool.run(ANN, lambda: 1 // 0)
        names = await asyncio.gather(*(pool.run(ANN, lambda: threading.current_thread().name) for _ in range(20)))
        assert all(name.startswith("clients") for name in names)

    run(test())


def test_what_one_account_asks_for_keeps_no_other_waiting() -> None:
    async def test() -> None:
        pool = Pool()
        with gate() as wait:
            slow = [asyncio.create_task(pool.run(ANN, wait.wait)) for _ in range(20)]
            async with asyncio.timeout(HANG_S):
                assert [await pool.run(asker, lambda: 7) for asker in (BEN, CEM, BEN)] == [7, 7, 7]
            assert not any(task.done() for task in slow)
        await asyncio.gather(*slow)

    run(test())


def test_the_waiting_job_of_a_client_that_hung_up_is_dropped() -> None:
    async def test() -> None:
        pool, ran = Pool(), list[int]()
        with gate() as wait:
            first = asyncio.create_task(pool.run(ANN, wait.wait))
            given_up = [asyncio.create_task(pool.run(ANN, lambda: ran.append(1))) for _ in range(20)]
            last = asyncio.create_task(pool.run(ANN, lambda: ran.append(2)))
            await asyncio.sleep(0)
            for task in given_up:
                task.cancel()
            await asyncio.gather(*given_up, return_exceptions=True)
        await asyncio.gather(first, last)
        assert ran == [2]

    run(test())


def test_a_running_job_keeps_its_thread_until_it_ends_though_its_client_is_gone() -> None:
    async def test() -> None:
        pool, ended = Pool(), list[str]()
        with gate() as wait:
            running = asyncio.create_task(pool.run(ANN, wait.wait))
            await asyncio.sleep(0)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            other = asyncio.create_task(pool.run(ANN, lambda: ended.append("ann")))
            await pool.run(BEN, lambda: ended.append("ben"))
            assert not other.done()
        await other
        assert ended == ["ben", "ann"]

    run(test())


def test_too_many_jobs_of_one_account_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 2)

    async def test() -> None:
        pool = Pool()
        with gate() as wait:
            tasks = [asyncio.create_task(pool.run(ANN, wait.wait)) for _ in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(RequestError, match="More than 2 requests") as caught:
                await pool.run(ANN, wait.wait)
            assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
            assert caught.value.retry_s
            assert await pool.run(BEN, lambda: 1) == 1
        await asyncio.gather(*tasks)

    run(test())


def test_a_client_that_hangs_up_gives_up_its_turn() -> None:
    async def test() -> None:
        pool, ran, gone = Pool(), list[int](), asyncio.Event()

        async def receive() -> dict[str, str]:
            await gone.wait()
            return {"type": "http.disconnect"}

        request = Request({"type": "http", "headers": []}, receive)
        with gate() as wait:
            first = asyncio.create_task(pool.run(asker_of(request), wait.wait))
            await asyncio.sleep(0)
            waiting = asyncio.create_task(pool.of(request, lambda: ran.append(1)))
            await asyncio.sleep(0)
            gone.set()
            with pytest.raises(RequestError, match="hung up") as caught:
                await waiting
            assert caught.value.status == CLIENT_GONE
        await first
        await pool.run(asker_of(request), lambda: ran.append(2))
        assert ran == [2]

    run(test())


def test_askers_are_accounts_or_addresses() -> None:
    def asker(caller: Caller) -> Asker:
        scope = {"type": "http", "headers": [], "client": ("10.0.0.1", 1), "state": {"caller": caller}}
        return asker_of(Request(scope))

    assert asker(Caller("ann")) == asker(Caller("ann", admin=True)) == Asker("ann")
    assert asker(Caller("", anonymous=True)) == Asker("address 10.0.0.1", stranger=True)
