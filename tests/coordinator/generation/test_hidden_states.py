"""`HiddenStates` over a swarm with nodes in this process: their rows carry the token."""

import numpy as np
import pytest

from kit.runner import run
from kit.toy_auditors import Liar, join, leave, make_audited_service, settled, states
from kit.toy_swarm import LAYERS, Node, toy_swarm
from kit.waiting import until
from potluck.coordinator.sessions.claim import EVERYONE
from potluck.errors import Unavailable
from potluck.types import NodeState, Span
from potluck.wire.messages import Step

TOKENS = np.arange(150, dtype=np.int32) % 20


@pytest.mark.parametrize("layer", range(LAYERS - 1))
def test_only_the_stages_up_to_the_layer_compute_and_no_room_stays_taken(layer: int) -> None:
    lasts: list[list[int]] = [[], []]

    def noting(seen: list[int]):
        async def note(step: Step) -> None:
            seen.append(step.last)

        return note

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            for node, seen in zip(nodes, lasts, strict=True):
                node.before = noting(seen)
            rows = await service.hidden_states().rows(TOKENS, layer, EVERYONE)
            assert (rows[:, 0] == TOKENS).all()
            assert lasts == [[min(layer, 1)] * 3, [layer] * 3 if layer > 1 else []]
            assert all(not node.reserved for node in service.swarm.nodes.values())
            await until(lambda: not any(node.cache for node in nodes))

    run(test())


def test_another_node_takes_over_from_one_that_fails() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "0-1", "2-3") as (service, [broken, sound, _]):

            async def fail(_: Step) -> None:
                broken.failing = True
                broken.before = sound.before = None

            broken.before = sound.before = fail
            assert (await service.hidden_states().rows(TOKENS, 0, EVERYONE) == TOKENS[:, None]).all()

    run(test())


def test_where_all_nodes_fail_the_swarm_is_not_available() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            nodes[0].failing = True
            with pytest.raises(Unavailable, match="lost its route 3 times"):
                await service.hidden_states().rows(TOKENS, 1, EVERYONE)
            assert all(not node.reserved for node in service.swarm.nodes.values())

    run(test())


def test_who_lies_about_hidden_rows_is_found_out() -> None:
    async def test() -> None:
        service = make_audited_service()
        liar, last = Liar(service, Span(0, 1)), Node(service, Span(2, 3))
        others = [Node(service, Span(0, 1)) for _ in range(2)]
        await join(service, liar, last, *others)
        for _ in range(60):
            await service.hidden_states().rows(TOKENS[:10], 0, EVERYONE)
            await settled(service)
        assert states(service, liar, *others) == [NodeState.QUARANTINED, NodeState.READY, NodeState.READY]
        await leave(liar, last, *others)

    run(test())
