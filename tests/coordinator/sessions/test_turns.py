import asyncio

import pytest

from kit.runner import run
from potluck.coordinator.sessions.turns import Turns


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Bench:
    """Callers who take a turn, and keep it until the test lets them go."""

    def __init__(self, most: int) -> None:
        self.turns = Turns(most)
        self.began: list[int] = []
        self.ends: dict[int, asyncio.Event] = {}

    def call(self, rank: int, key: str = "a") -> asyncio.Task[None]:
        self.ends[rank] = asyncio.Event()
        return asyncio.create_task(self._take(rank, key))

    async def _take(self, rank: int, key: str) -> None:
        async with self.turns.turn(key, rank):
            self.began.append(rank)
            await self.ends[rank].wait()


def test_the_lowest_rank_comes_first() -> None:
    async def scenario() -> None:
        bench = Bench(most=2)
        tasks = [bench.call(rank) for rank in (9, 8, 5, 3, 4)]
        await settle()
        assert bench.began == [9, 8]
        for rank in (8, 9, 3, 4, 5):
            bench.ends[rank].set()
            await settle()
        assert bench.began == [9, 8, 3, 4, 5]
        await asyncio.gather(*tasks)

    run(scenario())


def test_keys_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        bench = Bench(most=1)
        tasks = [bench.call(1, "a"), bench.call(2, "b")]
        await settle()
        assert bench.began == [1, 2]
        for end in bench.ends.values():
            end.set()
        await asyncio.gather(*tasks)

    run(scenario())


@pytest.mark.parametrize("given", [False, True])
def test_whoever_gives_up_waiting_costs_nobody_a_turn(given: bool) -> None:
    """given: the turn is given in the same moment."""

    async def scenario() -> None:
        bench = Bench(most=1)
        first, second, third = bench.call(1), bench.call(2), bench.call(3)
        await settle()
        if given:
            first.cancel()
            await asyncio.sleep(0)
        second.cancel()
        await settle()
        bench.ends[1].set()
        await settle()
        assert bench.began == [1, 3]
        bench.ends[3].set()
        await third
        fourth = bench.call(4)
        await settle()
        assert bench.began == [1, 3, 4]
        bench.ends[4].set()
        await asyncio.gather(first, second, fourth, return_exceptions=True)

    run(scenario())
