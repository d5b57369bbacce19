import asyncio

import pytest

from kit.runner import run
from potluck.coordinator.sessions import line as module
from potluck.coordinator.sessions.claim import EVERYONE, Claim, Rank
from potluck.coordinator.sessions.fair_queue import AGING_S, FairQueue
from potluck.coordinator.sessions.line import Line

BATCH = Claim("anna", Rank.BATCH)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_to_come_is_first_and_urgent_ones_go_before() -> None:
    queue = FairQueue()
    line = Line(queue)
    one, two = line.join(EVERYONE, 1), line.join(EVERYONE, 1)
    assert (line.is_first(one), line.is_first(two), len(queue)) == (True, False, 2)
    urgent, next_urgent = line.join(EVERYONE, 1, urgent=True), line.join(EVERYONE, 1, urgent=True)
    order = []
    for _ in range(4):
        first = next(place for place in (one, two, urgent, next_urgent) if len(queue) and line.is_first(place))
        order.append(first)
        line.leave(first)
    assert order == [urgent, next_urgent, one, two]
    assert len(queue) == 0


def test_who_becomes_first_is_called_and_nobody_else() -> None:
    async def test() -> None:
        line = Line(FairQueue())
        places = [line.join(EVERYONE, 1) for _ in range(3)]
        waits = [asyncio.create_task(place.wait()) for place in places]
        await asyncio.sleep(0)
        line.call()
        await waits[0]
        assert [wait.done() for wait in waits] == [True, False, False]
        line.start(places[0])
        line.leave(places[0])
        await waits[1]
        assert not waits[2].done()
        line.leave(places[1])
        await waits[2]

    run(test())


def test_a_call_before_the_wait_is_not_lost_and_counts_once() -> None:
    async def test() -> None:
        line = Line(FairQueue())
        place = line.join(EVERYONE, 1)
        line.call()
        await place.wait()
        again = asyncio.create_task(place.wait())
        await asyncio.sleep(0)
        assert not again.done()
        again.cancel()

    run(test())


def test_who_is_not_called_looks_again_when_its_class_may_have_risen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGING_S", 0.01)
    run(Line(FairQueue()).join(EVERYONE, 1).wait())


def test_all_but_interactive_requests_yield_until_they_have_risen() -> None:
    clock = Clock()
    queue = FairQueue()
    line = Line(queue, clock)
    interactive, batch = line.join(EVERYONE, 1), line.join(BATCH, 1)
    urgent = line.join(BATCH, 1, urgent=True)
    assert [line.yields(place) for place in (interactive, batch, urgent)] == [False, True, False]
    clock.now = AGING_S
    assert not line.yields(batch)


def test_a_class_runs_from_a_start_to_its_end() -> None:
    queue = FairQueue()
    line = Line(queue)
    place = line.join(BATCH, 10)
    assert not queue.runs(Rank.BATCH)
    line.start(place)
    line.leave(place)
    assert (queue.runs(Rank.BATCH), queue.runs(Rank.INTERACTIVE), len(queue)) == (True, False, 0)
    line.end(place, 10)
    assert not queue.runs(Rank.BATCH)


def test_standings_tell_how_long_each_has_waited() -> None:
    clock = Clock()
    queue = FairQueue()
    line = Line(queue, clock)
    line.join(BATCH, 1)
    clock.now = 3.0
    [standing] = queue.standings(clock(), 5)
    assert (standing.claim, standing.waited_s) == (BATCH, 3.0)


def test_who_becomes_first_by_what_another_got_elsewhere_is_called() -> None:
    async def test() -> None:
        line = Line(FairQueue())
        places = [line.join(Claim(account), 1) for account in ("anna", "ben")]
        waits = [asyncio.create_task(place.wait()) for place in places]
        await asyncio.sleep(0)
        line.taken_elsewhere({(int(Rank.INTERACTIVE), "anna"): 5.0})
        await waits[1]
        assert line.is_first(places[1])
        assert not waits[0].done()
        line.leave(places[1])
        await waits[0]

    run(test())
