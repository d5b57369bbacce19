import asyncio
from collections.abc import Callable

import pytest

from kit.runner import run
from potluck.coordinator.gateway.linkprobe import _PROBE_BYTES, probe_link
from potluck.coordinator.swarm.linkspeed import LinkSpeed
from potluck.errors import WireError
from potluck.local import HANG_S
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.link import MemoryLink
from potluck.wire.message import Message
from potluck.wire.messages import Loading, Ping, Pong


class Node:
    """Echoes over a line of which the test knows the round trip and the bandwidth; its clock is the test's."""

    def __init__(self, round_trip_s: float, bytes_per_s: float) -> None:
        self.now = 0.0
        self.round_trip_s, self.bytes_per_s = round_trip_s, bytes_per_s

    async def answer(self, link: MemoryLink, word: Callable[[int], Message]) -> None:
        while True:
            message, payload = decode_from_coordinator(await link.receive())
            assert isinstance(message, Ping)
            self.now += self.round_trip_s + 2 * len(payload) / self.bytes_per_s
            await link.send(encode(word(message.number), payload))


async def probed(node: Node, word: Callable[[int], Message] = lambda number: Pong(number, 0)) -> LinkSpeed:
    ours, theirs = MemoryLink.pair()
    task = asyncio.create_task(node.answer(theirs, word))
    try:
        async with asyncio.timeout(HANG_S):
            return await probe_link(ours, lambda: node.now)
    finally:
        task.cancel()


@pytest.mark.parametrize(("round_trip_s", "bytes_per_s"), [(0.03, 1e6), (0.0, 1e8)])
def test_a_links_round_trip_and_bandwidth_are_told_apart(round_trip_s: float, bytes_per_s: float) -> None:
    speed = run(probed(Node(round_trip_s, bytes_per_s)))
    assert speed == pytest.approx((round_trip_s, bytes_per_s))


def test_a_link_that_takes_no_time_is_not_infinitely_fast() -> None:
    assert run(probed(Node(0.0, 1e30))).bytes_per_s == pytest.approx(2 * _PROBE_BYTES / 1e-5)


@pytest.mark.parametrize("word", [lambda number: Pong(number + 1, 0), lambda _: Loading(0.5)])
def test_whoever_answers_something_else_is_refused(word: Callable[[int], Message]) -> None:
    with pytest.raises(WireError, match="did not echo"):
        run(probed(Node(0.0, 1e6), word))
