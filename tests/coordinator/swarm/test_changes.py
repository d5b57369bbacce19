import asyncio

import pytest

from kit.runner import run
from potluck.coordinator.swarm.changes import Changes
from potluck.errors import Unavailable
from potluck.local import HANG_S


def test_a_change_wakes_all_who_wait_once() -> None:
    async def test() -> None:
        told: list[str] = []
        changes = Changes(lambda: told.append("also"))
        deadline = asyncio.get_running_loop().time() + 10
        waits = [asyncio.create_task(changes.before(deadline)) for _ in range(2)]
        await asyncio.sleep(0)
        changes.tell()
        assert await asyncio.gather(*waits) == [True, True]
        assert told == ["also"]
        later = asyncio.create_task(changes.before(deadline))
        await asyncio.sleep(0)
        assert not later.done()
        changes.tell()
        assert await later

    run(test())


def test_who_has_waited_long_enough_is_told_so() -> None:
    async def test() -> None:
        assert not await Changes().before(asyncio.get_running_loop().time())

    run(test())


@pytest.mark.parametrize("late", [False, True], ids=["waits already", "comes later"])
def test_nobody_waits_for_a_coordinator_that_stops(late: bool) -> None:
    async def test() -> None:
        changes = Changes()
        if late:
            changes.stop()
        waiting = asyncio.create_task(changes.before(asyncio.get_running_loop().time() + HANG_S))
        await asyncio.sleep(0)
        changes.stop()
        with pytest.raises(Unavailable, match="The coordinator is stopping"):
            await waiting

    run(test())
