"""The runner of the async tests fails them for what they leave behind."""

import asyncio

import pytest

from kit.runner import run, run_leaping


@pytest.mark.parametrize("runner", [run, run_leaping])
def test_what_the_coroutine_returns_comes_back(runner) -> None:
    async def test() -> int:
        await asyncio.sleep(0)
        return 7

    assert runner(test()) == 7


def test_hours_pass_at_once_on_the_leaping_loop() -> None:
    async def test() -> float:
        began = asyncio.get_running_loop().time()
        for _ in range(10):
            await asyncio.sleep(60)
        return asyncio.get_running_loop().time() - began

    assert run_leaping(test()) == pytest.approx(600, abs=1)


def test_an_error_of_the_test_itself_is_raised_as_it_is() -> None:
    async def test() -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        run(test())


def test_a_task_that_is_left_running_fails_the_test() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    async def test() -> None:
        asyncio.create_task(wait(), name="forgotten")  # noqa: RUF006

    with pytest.raises(AssertionError, match=r"left a task running: .*forgotten"):
        run(test())


def test_a_task_that_was_told_to_end_may_do_so() -> None:
    ended = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def test() -> None:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()

    run(test())
    assert ended == [True]


def test_an_exception_of_a_task_that_nobody_retrieved_fails_the_test() -> None:
    async def fail() -> None:
        raise ValueError("unseen")

    async def test() -> None:
        task = asyncio.create_task(fail())
        await asyncio.wait([task])

    with pytest.raises(AssertionError, match="never retrieved: ValueError"):
        run(test())


def test_an_error_in_a_callback_fails_the_test() -> None:
    async def test() -> None:
        asyncio.get_running_loop().call_soon(int, "x")
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="ValueError"):
        run(test())
