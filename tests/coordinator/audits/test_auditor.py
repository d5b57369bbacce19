"""Audits over a swarm with nodes in this process, some of which lie about a toy model."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kit.gateways import moderation_of
from kit.runner import run
from kit.toy_auditors import Liar, join, leave, make_audited_service, settled, shown, states
from kit.toy_swarm import (
    TOKENIZER,
    Node,
    answer,
    job,
    text,
    toy_answer,
    toy_logits,
)
from kit.waiting import until
from potluck.coordinator.compose import SwarmService
from potluck.types import NodeState, Span
from potluck.wire.codec import decode_from_node, encode
from potluck.wire.identity import Identity
from potluck.wire.messages import Recall, Step


def test_honest_nodes_pass_and_no_room_stays_taken() -> None:
    async def test() -> None:
        service = make_audited_service()
        nodes = [Node(service, Span.parse(span)) for span in ("0-1", "0-1", "2-3", "2-3")]
        await join(service, *nodes)
        for number in range(30):
            assert text(await answer(service, job("potluck"[number % 7 :], 5))) == toy_answer(
                "potluck"[number % 7 :], 5
            )
        await settled(service)
        totals = service.audits.totals
        assert (totals.passed > 20, totals.failed, service.audits.undecided) == (True, 0, 0)
        assert set(states(service, *nodes)) == {NodeState.READY}
        assert all(node.open_sessions == 0 for node in service.swarm.nodes.values())
        assert sum(node.audits_passed for node in shown(service)) == totals.passed
        await leave(*nodes)

    run(test())


def test_each_audit_is_noted_for_the_store() -> None:
    async def test() -> None:
        service = make_audited_service()
        nodes = [Node(service, Span.parse(span)) for span in ("0-1", "0-1", "2-3")]
        began = int(time.time())
        await join(service, *nodes)
        for _ in range(5):
            await answer(service, job("potluck", 5))
        await settled(service)
        changes = service.ledger.changes()
        assert changes.passed.total() == service.audits.totals.passed > 0
        assert not changes.failed
        for node in shown(service):
            assert (node.audited_at is not None) == (node.audits_passed > 0)
            assert node.audited_at is None or began <= node.audited_at <= time.time()
        await leave(*nodes)

    run(test())


@pytest.mark.parametrize("honest", [0, 50])
@pytest.mark.parametrize(("lying", "other"), [("0-1", "2-3"), ("2-3", "0-1")])
def test_a_liar_is_caught_and_from_then_on_the_answer_is_the_models(honest: int, lying: str, other: str) -> None:
    """What later stages had from it is computed anew, so that no later token depends on its lies."""

    async def test() -> None:
        service = make_audited_service()
        liar = Liar(service, Span.parse(lying))
        liar.honest = honest
        await join(service, liar)  # the first one gets the sessions
        others = [Node(service, Span.parse(span)) for span in (lying, lying, other)]
        await join(service, *others)
        caught = False
        for number in range(40):
            one = job("potluck"[number % 7 :], 60, ignore_eos=True, logprobs=0)
            tokens = list(one.prompt)
            async for delta in service.generation(TOKENIZER).answer(one):
                [scored] = delta.tokens
                if caught:
                    assert scored.token == int(toy_logits(tokens).argmax())
                tokens.append(scored.token)
                caught = states(service, liar) == [NodeState.QUARANTINED]
            if caught:
                break
        assert caught
        await settled(service)
        assert states(service, *others) == [NodeState.READY] * 3
        assert not service.swarm.nodes[liar.name].reserved
        [line] = liar.notices
        assert "were wrong twice" in line
        [status] = [node for node in shown(service) if node.state == "quarantined"]
        assert "were wrong twice" in status.reason
        assert status.audits_failed == 1
        assert text(await answer(service, job("potluck", 6))) == toy_answer("potluck", 6)
        await leave(liar, *others)

    run(test())


def test_of_two_that_contradict_each_other_neither_is_convicted_but_both_are_watched() -> None:
    async def test() -> None:
        service = make_audited_service()
        liar, honest, last = Liar(service, Span(0, 1)), Node(service, Span(0, 1)), Node(service, Span(2, 3))
        await join(service, liar, honest, last)
        for _ in range(5):
            await answer(service, job("potluck", 5))
        await settled(service)
        assert service.audits.undecided > 0
        assert states(service, liar, honest, last) == [NodeState.READY] * 3
        moderation_of(service).trust(honest.identity.public, trusted=True)
        for _ in range(5):
            await answer(service, job("potluck", 5))
        await settled(service)
        assert states(service, liar, honest) == [NodeState.QUARANTINED, NodeState.READY]
        await leave(liar, honest, last)

    run(test())


@pytest.mark.parametrize("loss", ["leaves", "fails"])
def test_an_auditor_that_is_lost_is_replaced(loss: str) -> None:
    async def test() -> None:
        service = make_audited_service()
        nodes = [Node(service, Span.parse(span)) for span in ("0-1", "0-1", "0-1", "2-3")]
        await join(service, *nodes)
        served, others = nodes[0], nodes[1:3]

        async def lose(node: Node, step: Step) -> None:
            node.before = None
            node.failing = loss == "fails"
            if loss == "leaves":
                await node.link.close()

        for node in others:
            node.before = bind(lose, node)
        await answer(service, job("potluck", 5))
        await settled(service)
        assert served.name in service.swarm.nodes
        for node in others:
            node.failing, node.before = False, None
        for _ in range(3):
            await answer(service, job("potluck", 5))
        await settled(service)
        assert service.audits.totals.failed == 0
        await leave(*nodes)

    run(test())


def test_when_the_coordinator_stops_no_audit_stays_behind() -> None:
    async def test() -> None:
        service = make_audited_service()
        nodes = [Node(service, Span.parse(span)) for span in ("0-1", "0-1", "2-3")]
        await join(service, *nodes)

        async def never(_: Node, __: Step) -> None:
            service.stop()

        nodes[1].before = bind(never, nodes[1])
        await answer(service, job("potluck", 2))
        await until(lambda: not service.auditor.busy)
        await leave(*nodes)

    run(test())


def bind(call: Callable, node: Node) -> Callable:
    return lambda step: call(node, step)


def test_an_audits_frames_look_like_the_sessions_that_it_is_about() -> None:
    async def test() -> None:
        service = make_audited_service()
        nodes = [Node(service, Span.parse(span)) for span in ("0-1", "0-1", "2-3")]
        await join(service, *nodes)
        seen: list[Step] = []

        async def look(_: Node, step: Step) -> None:
            seen.append(step)

        for node in nodes[:2]:
            node.before = bind(look, node)
        await answer(service, job("potluck", 3))
        await settled(service)
        sessions = {step.session for step in seen}
        assert len(sessions) == 2
        assert {step.stages for step in seen} == {2}
        assert {step.last for step in seen} == {1}
        assert not any(step.keep or step.asks for step in seen)
        await leave(*nodes)

    run(test())


class LateLiar(Liar):
    """Is honest where a session begins, up to this position."""

    position = 20

    def _answer(self, step: Step, payload: memoryview) -> bytes:
        self.honest = int(step.position < self.position)
        return super()._answer(step, payload)


@pytest.mark.parametrize(("lying", "other"), [("0-1", "2-3"), ("2-3", "0-1")])
def test_a_node_that_lies_in_a_chats_next_turns_alone_is_caught(lying: str, other: str) -> None:
    async def test() -> None:
        service = make_audited_service()
        liar = LateLiar(service, Span.parse(lying))
        await join(service, liar)
        others = [Node(service, Span.parse(span)) for span in (lying, lying, other)]
        await join(service, *others)
        for number in range(40):
            first = job(("potluck" * 3)[number % 7 :][:14], 5, ignore_eos=True)  # 19 positions at most
            said = [delta.tokens[0].token for delta in await answer(service, first)]
            second = replace(job("", 20, ignore_eos=True), prompt=[*first.prompt, *said, 1])
            await answer(service, second)
            await settled(service)
            if states(service, liar) == [NodeState.QUARANTINED]:
                break
        assert service.swarm.tally.resumed > 0
        assert states(service, liar, *others) == [NodeState.QUARANTINED] + [NodeState.READY] * 3
        await leave(liar, *others)

    run(test())


class LyingHeir(Liar):
    """Is honest in all sessions but those that it has taken over from others."""

    def __init__(self, service: SwarmService, span: Span) -> None:
        super().__init__(service, span)
        self.inherited: set[int] = set()

    def _answer(self, step: Step, payload: memoryview) -> bytes:
        if step.keep:
            self.inherited.add(step.session)
        self.honest = int(step.session not in self.inherited)
        return super()._answer(step, payload)


@pytest.mark.parametrize(("lying", "other"), [("0-1", "2-3"), ("2-3", "0-1")])
def test_a_node_that_lies_in_place_of_lost_ones_alone_is_caught(lying: str, other: str) -> None:
    """Those that stay on the route are watched as before, and none of them is accused."""

    async def test() -> None:
        service, identity = make_audited_service(), Identity.fresh()
        last = Node(service, Span.parse(other))
        await join(service, last)

        async def close(node: Node, step: Step) -> None:
            if step.position == 9:
                await node.link.close()

        for number in range(4):
            served = Node(service, Span.parse(lying))
            served.before = bind(close, served)
            await join(service, served)  # the first one gets the session, and the next one is its heir
            liar = LyingHeir(service, Span.parse(lying))
            liar.identity = identity
            await until(lambda liar=liar: liar.name or liar.gone)  # type: ignore[misc]
            if liar.gone:
                break
            others = [Node(service, Span.parse(lying)) for _ in range(2)]
            await join(service, *others)
            deltas = await answer(service, job("potluck"[number:], 20, ignore_eos=True))
            assert len(deltas) == 20
            assert served.gone
            assert liar.inherited
            await settled(service)
            await leave(served, liar, *others)
        assert liar.gone
        assert not liar.name  # it is not let in again
        assert service.audits.totals.failed == service.audits.record(identity.public).failed > 0
        await leave(served, liar, last)

    run(test())


class LyingJournal(Node):
    """Is honest but for the rows that it sends once more, for the heir of a lost node."""

    def _recalled(self, recall: Recall) -> bytes:
        message, told = decode_from_node(super()._recalled(recall))
        return encode(message, ((np.frombuffer(told, "<f4") + 1) % 20).astype("<f4").tobytes())


def test_a_node_that_lies_to_heirs_alone_is_caught_where_it_is_watched() -> None:
    async def test() -> None:
        service = make_audited_service()
        liar = LyingJournal(service, Span(0, 1))
        await join(service, liar)  # the first one gets the sessions
        others = [Node(service, Span(0, 1)) for _ in range(2)]
        await join(service, *others)
        lost = []

        async def close(node: Node, step: Step) -> None:
            if step.position == 9:
                await node.link.close()

        for number in range(2):
            lost.append(Node(service, Span(2, 3)))
            lost[-1].before = bind(close, lost[-1])
            await join(service, lost[-1])
            heir = Node(service, Span(2, 3))
            await join(service, heir)
            assert len(await answer(service, job("potluck"[number:], 20, ignore_eos=True))) == 20
            await settled(service)
            await leave(heir, lost[-1])
        assert service.audits.record(liar.identity.public).failed == 2  # right when asked again, but twice
        assert [node.gone for node in others] == [False, False]
        assert states(service, liar, *others) == [NodeState.QUARANTINED, NodeState.READY, NodeState.READY]
        await leave(liar, *others)

    run(test())


def test_a_liar_that_hangs_up_before_its_audit_is_remembered_by_its_key() -> None:
    async def test() -> None:
        service = make_audited_service()
        identity = Identity.fresh()

        async def hang_up(node: Node, step: Step) -> None:
            if step.position > 10:
                await node.link.close()

        for _ in range(2):
            liar = Liar(service, Span(0, 1))
            liar.identity = identity
            await join(service, liar)  # the first one gets the session
            others = [Node(service, Span.parse(span)) for span in ("0-1", "0-1", "2-3")]
            await join(service, *others)
            liar.before = bind(hang_up, liar)
            await answer(service, job("potluck", 10, ignore_eos=True))
            assert liar.gone
            await settled(service)
            await leave(liar, *others)
        assert service.audits.record(identity.public).failed == 2
        again = Liar(service, Span(0, 1))
        again.identity = identity
        await until(lambda: again.gone)
        assert not again.name  # it is not let in
        await leave(again)

    run(test())
