import asyncio

import pytest

from potluck.coordinator.line import Line
from potluck.errors import Busy


def test_the_first_to_come_is_first_and_urgent_ones_go_before() -> None:
    line = Line(10)
    one, two = line.join(), line.join()
    assert (line.is_first(one), line.is_first(two), len(line)) == (True, False, 2)
    urgent, next_urgent = line.join(urgent=True), line.join(urgent=True)
    order = []
    for _ in range(4):
        first = next(place for place in (one, two, urgent, next_urgent) if len(line) and line.is_first(place))
        order.append(first)
        line.leave(first)
    assert order == [urgent, next_urgent, one, two]
    assert len(line) == 0


def test_a_full_line_refuses_all_but_the_urgent() -> None:
    line = Line(2)
    first = line.join()
    line.join()
    with pytest.raises(Busy, match="2 requests wait already"):
        line.join()
    urgent = line.join(urgent=True)
    assert line.is_first(urgent)
    line.leave(urgent)
    line.leave(first)
    line.join()


def test_who_becomes_first_is_called_and_nobody_else() -> None:
    async def test() -> None:
        line = Line(10)
        places = [line.join() for _ in range(3)]
        waits = [asyncio.create_task(place.wait()) for place in places]
        await asyncio.sleep(0)
        line.leave(places[1])  # not the first: nothing changes for the others
        await asyncio.sleep(0)
        assert [wait.done() for wait in waits] == [False, False, False]
        line.call()
        await waits[0]
        line.leave(places[0])
        await waits[2]
        waits[1].cancel()

    asyncio.run(test())


def test_a_call_before_the_wait_is_not_lost_and_counts_once() -> None:
    async def test() -> None:
        line = Line(10)
        place = line.join()
        line.call()
        await place.wait()
        again = asyncio.create_task(place.wait())
        await asyncio.sleep(0)
        assert not again.done()
        again.cancel()

    asyncio.run(test())
