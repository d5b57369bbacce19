import asyncio

import pytest

from kit.runner import run
from potluck.coordinator.sessions.chunks import in_order, step_rows


@pytest.mark.parametrize(("row_bytes", "rows"), [(4, 64), (8192, 64), (2**16, 64), (2**17, 32), (2**23, 1)])
def test_a_step_is_bounded_in_rows_and_bytes(row_bytes: int, rows: int) -> None:
    assert step_rows(row_bytes) == rows


def test_results_come_in_order_and_a_few_calls_run_ahead() -> None:
    running, most = 0, 0

    async def call(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5 - number % 3):
            await asyncio.sleep(0)
        running -= 1
        return number

    async def test() -> None:
        assert [result async for result in in_order(map(call, range(10)), ahead=2)] == list(range(10))

    run(test())
    assert 1 < most <= 3
