import asyncio

import pytest

from kit.runner import run
from potluck.coordinator.gateway.stays import Stays
from potluck.types import Coordinator
from potluck.wire.messages import Refusal


def test_a_stay_is_ended_once_and_for_its_first_reason() -> None:
    async def test() -> None:
        stays, task = Stays(), asyncio.create_task(asyncio.Event().wait())
        stays.begin("n1", "10.0.0.1", task)
        assert (stays.host("n1"), stays.last_word("n1"), stays.cut) == ("10.0.0.1", None, set())
        stays.end("n1", "first")
        stays.end("n1", "second")
        stays.send("n1", Coordinator("http://b:1", bytes(32)))
        assert task.cancelling() == 1
        assert (stays.last_word("n1"), stays.cut) == (Refusal("first"), {"n1"})
        with pytest.raises(asyncio.CancelledError):
            await task
        stays.forget("n1")
        assert stays.cut == set()

    run(test())
