import asyncio

from kit.runner import run
from potluck.coordinator.gateway.outboxes import Outboxes
from potluck.wire.link import MemoryLink


def test_frames_go_to_their_nodes_in_order_and_those_for_nodes_that_left_are_dropped() -> None:
    async def test() -> None:
        outboxes = Outboxes()
        ours, theirs = MemoryLink.pair()
        sender = asyncio.create_task(outboxes.open("n1", ours).run())
        outboxes.send(("n1", b"a"), ("gone", b"x"), ("n1", b"b"))
        assert [await theirs.receive(), await theirs.receive()] == [b"a", b"b"]
        outboxes.close("n1")
        outboxes.send(("n1", b"c"))
        sender.cancel()

    run(test())
