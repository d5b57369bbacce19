import asyncio
import threading

import pytest

from kit.runner import run
from potluck.local import HANG_S
from potluck.node.background import Worker


def test_a_result_comes_back_and_always_from_the_same_daemon_thread() -> None:
    async def test() -> list[threading.Thread]:
        worker = Worker()
        assert await worker.run(divmod, 7, 2) == (3, 1)
        return [await worker.run(threading.current_thread) for _ in range(3)]

    threads = run(test())
    assert len(set(threads)) == 1
    assert threads[0].daemon
    assert threads[0] is not threading.current_thread()


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_is_raised_where_it_is_awaited_and_the_worker_goes_on(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def test() -> None:
        worker = Worker()
        with pytest.raises(type(error)):
            await worker.run(fail)
        assert await worker.run(int, "5") == 5

    run(test())


def test_calls_run_in_order_and_the_loop_stays_free_meanwhile() -> None:
    async def test() -> None:
        worker, gate, order = Worker(), threading.Event(), list[int]()
        first = asyncio.create_task(worker.run(gate.wait, HANG_S))
        others = [asyncio.create_task(worker.run(order.append, number)) for number in range(5)]
        await asyncio.sleep(0)  # the calls are queued
        assert not first.done()
        gate.set()
        assert await first
        await asyncio.gather(*others)
        assert order == [0, 1, 2, 3, 4]

    run(test())


def test_a_cancelled_call_leaves_the_worker_usable() -> None:
    async def test() -> None:
        worker, gate = Worker(), threading.Event()
        task = asyncio.create_task(worker.run(gate.wait, HANG_S))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        assert await worker.run(len, "abc") == 3

    run(test())


def test_a_call_may_outlive_its_loop() -> None:
    worker, gate, done = Worker(), threading.Event(), threading.Event()

    def slow() -> None:
        gate.wait(HANG_S)
        done.set()

    async def abandon() -> None:
        task = asyncio.create_task(worker.run(slow))
        await asyncio.sleep(0)
        task.cancel()

    run(abandon())
    gate.set()
    assert done.wait(HANG_S)

    async def again() -> int:
        return await worker.run(len, "abcd")

    assert run(again()) == 4
