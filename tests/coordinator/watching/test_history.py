import asyncio
import json

import pytest

from kit.runner import run
from potluck.coordinator.watching import history as module
from potluck.coordinator.watching.history import History, Sample
from potluck.local import HANG_S


def test_the_last_minutes_are_kept_and_no_more(clock) -> None:
    figures = iter((tokens, 1, 2) for tokens in range(1000))
    history = History([lambda: next(figures)], clock)
    for _ in range(400):
        history.note()
        clock.now += 1
    samples = history.samples()
    assert len(samples) == 300
    assert samples[0] == Sample(300.0, 100, 1, 2)
    assert samples[-1] == Sample(1.0, 399, 1, 2)


def test_they_are_told_beside_the_status(clock) -> None:
    history = History([lambda: (5, 1, 0)], clock)
    assert json.loads(history.beside(b'{"a":{}}')) == {"a": {}, "history": []}
    history.note()
    told = json.loads(history.beside(b'{"a":{}}'))
    assert told == {"a": {}, "history": [{"ago_s": 0.0, "tokens": 5, "streams": 1, "waiting": 0}]}


def test_each_of_several_models_has_its_own(clock) -> None:
    history = History([lambda: (5, 1, 0), lambda: (7, 2, 1)], clock)
    history.note()
    clock.now += 2
    told = json.loads(history.beside(b'{"models":[{"a":{}},{"b":[]}]}'))
    assert told == {
        "models": [
            {"a": {}, "history": [{"ago_s": 2.0, "tokens": 5, "streams": 1, "waiting": 0}]},
            {"b": [], "history": [{"ago_s": 2.0, "tokens": 7, "streams": 2, "waiting": 1}]},
        ]
    }


def test_they_are_noted_whether_or_not_anybody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.001)

    async def test() -> None:
        thrice = asyncio.Event()

        def look() -> tuple[int, int, int]:
            if len(history.samples()) == 3:
                thrice.set()
            return 0, 0, 0

        history = History([look])
        async with history.kept(), asyncio.timeout(HANG_S):
            await thrice.wait()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(test())
