import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from kit.runner import run
from potluck.coordinator.relay.relay import Outgoing
from potluck.coordinator.sessions import handover as module
from potluck.coordinator.sessions.handover import Handover
from potluck.errors import WireError
from potluck.wire.codec import decode_from_coordinator
from potluck.wire.messages import Export, Exported, Import, Imported


class Bench:
    def __init__(self) -> None:
        self.sent: list[tuple[str, object, bytes]] = []
        self.handover = Handover(self._note)

    def _note(self, outgoing: Outgoing) -> None:
        node, frame = outgoing
        message, payload = decode_from_coordinator(frame)
        self.sent.append((node, message, bytes(payload)))

    async def begun(self, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(call)
        await asyncio.sleep(0)
        return task

    def part(self, left: int, part: bytes, node: str = "n1", session: int = 7) -> None:
        self.handover.part(node, Exported(session, left), memoryview(part))


def test_a_state_comes_in_parts_and_goes_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bench = Bench()
        fetched = await bench.begun(bench.handover.fetch("n1", 7, 1000))
        assert bench.sent.pop() == ("n1", Export(7, 1000), b"")
        bench.part(2, b"abc")
        bench.part(9, b"x", node="n2")  # of nobody who was asked
        bench.part(9, b"x", session=8)
        assert not fetched.done()
        bench.part(0, b"de")
        assert await fetched == b"abcde"
        bench.part(0, b"late")
        brought = await bench.begun(bench.handover.bring("n2", 7, b"abcde"))
        assert bench.sent == [("n2", Import(7, 0), b"abcde")]
        bench.handover.imported("n1", Imported(7, 99))
        bench.handover.imported("n2", Imported(7, 12))
        assert await brought == 12
        bench.handover.imported("n2", Imported(7, 13))

    run(scenario())


def test_a_node_that_is_lost_gives_and_takes_nothing() -> None:
    async def scenario() -> None:
        bench = Bench()
        fetched = await bench.begun(bench.handover.fetch("n1", 7, 1000))
        brought = await bench.begun(bench.handover.bring("n1", 8, b"ab"))
        other = await bench.begun(bench.handover.bring("n2", 7, b"ab"))
        bench.handover.lost("n1")
        assert (await fetched, await brought) == (b"", 0)
        assert not other.done()
        bench.handover.lost("n2")
        await other

    run(scenario())


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.01)

    async def scenario() -> None:
        bench = Bench()
        assert await bench.handover.fetch("n1", 7, 1000) == b""
        assert await bench.handover.bring("n1", 7, b"ab") == 0

    run(scenario())


def test_parts_that_do_not_follow_cost_the_node_its_place() -> None:
    async def scenario() -> None:
        bench = Bench()
        fetched = await bench.begun(bench.handover.fetch("n1", 7, 1000))
        bench.part(4, b"ab")
        with pytest.raises(WireError):
            bench.part(4, b"ab")
        bench.handover.lost("n1")
        await fetched

    run(scenario())
