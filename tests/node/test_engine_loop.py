import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import numpy as np
import pytest

from kit.engine_bench import Bench, serving
from kit.runner import run
from kit.toy_engine import FIRST, LAST, LAYERS, SPEED, VOCABULARY, WIDTH, TwoCores
from potluck.errors import CapacityError, EngineError, LinkClosed, Refused, WireError
from potluck.local import HANG_S
from potluck.node.background import Worker
from potluck.node.engine_loop import EngineLoop
from potluck.node.hardware import Cores
from potluck.types import Attention, Coordinator, EngineKind, Quantize, RowFormat, Span
from potluck.wire.fleet import Fleet, Redirect
from potluck.wire.message import Message
from potluck.wire.messages import (
    Close,
    Export,
    Exported,
    Failed,
    Hidden,
    Import,
    Imported,
    Kept,
    Notice,
    PeerToken,
    Ping,
    Pong,
    Recall,
    Refusal,
    Released,
    Scores,
    Step,
    Welcome,
)
from potluck.wire.rows import pack_ids, pack_rows, unpack_rows, unpack_scores


@pytest.mark.parametrize("form", list(RowFormat))
def test_tokens_become_hidden_rows_for_the_next_stage(form: RowFormat) -> None:
    async def test() -> None:
        bench = Bench(FIRST, form)
        with serving(bench):
            await bench.send(
                Step(session=7, route=3, step=5, position=0, rows=2, last=1, top=1, asks=(), stages=1),
                pack_ids(np.array([4, 9], np.int32)),
            )
            message, payload = await bench.receive()
            assert message == Hidden(7, 3, 5, 2, 0.0, 0.0)
            assert payload == pack_rows(np.array([[5] * WIDTH, [10] * WIDTH], np.float32), form)
            assert bench.engine.cores == (0, 1)

    run(test())


def test_the_last_stage_answers_with_candidates_of_the_wanted_rows() -> None:
    async def test() -> None:
        bench = Bench(LAST)
        with serving(bench):
            await bench.rows(1, [[9, 9, 9], [1, 5, 3], [7, 2, 2]], asks=((6,), ()))
            message, payload = await bench.receive()
            assert message == Scores(1, 1, 0, (3, 2), 0.0, 0.0)
            assert isinstance(message, Scores)
            wanted, other = unpack_scores(payload, message.counts)
            assert wanted[0].tolist() == [1, 2, 6]
            assert other[0].tolist() == [0, 1]
            assert wanted[1] + wanted[2] == pytest.approx([6, 4, 0], abs=1e-5)

    run(test())


def test_a_chunk_of_which_nothing_is_wanted_is_answered_all_the_same() -> None:
    async def test() -> None:
        bench = Bench(LAST)
        with serving(bench):
            await bench.rows(1, [[1, 2, 3]], asks=())
            message, payload = await bench.receive()
            assert message == Scores(1, 1, 0, (), 0.0, 0.0)
            assert len(payload) == 0

    run(test())


def test_the_steps_of_several_sessions_run_as_one_batch_and_those_of_one_in_order() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        for session in (1, 2, 3):
            await bench.tokens(session, [session])
        await bench.tokens(1, [8], position=1, number=1)
        with serving(bench):
            for _ in range(4):
                message, _ = await bench.receive()
                assert isinstance(message, Hidden)
            assert bench.engine.batches == [[1, 2, 3], [1]]
            assert bench.engine.lengths == {1: 2, 2: 1, 3: 1}

    run(test())


def test_a_node_that_waits_for_cores_answers_pings_meanwhile() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        bench.cores.free.clear()
        with serving(bench):
            await bench.tokens(1, [1])
            await bench.send(Ping(1))
            assert isinstance((await bench.receive())[0], Pong)
            assert bench.engine.batches == []
            bench.cores.free.set()
            assert isinstance((await bench.receive())[0], Hidden)
            assert bench.engine.batches == [[1]]

    run(test())


def test_a_closed_session_loses_its_waiting_steps_and_its_cache() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        bench.engine.lengths = {1: 5, 2: 5}
        await bench.tokens(2, [1], position=5)
        await bench.tokens(3, [1])
        await bench.send(Close(2))
        await bench.send(Close(99))
        with serving(bench):
            assert (await bench.receive_all(1)).keys() == {3}
            assert bench.engine.batches == [[3]]
            assert bench.engine.lengths == {1: 5, 3: 1}

    run(test())


def test_a_session_that_closes_while_it_runs_is_forgotten_afterwards() -> None:
    async def test() -> None:
        bench, entered, gate = Bench(FIRST), asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def hold() -> None:
            loop.call_soon_threadsafe(entered.set)
            assert gate.wait(HANG_S)

        bench.engine.before = hold
        with serving(bench):
            await bench.tokens(1, [1] * 20)
            await entered.wait()
            await bench.tokens(1, [2], position=20, number=1)
            await bench.send(Close(1))
            await bench.tokens(2, [1])
            gate.set()
            answers = await bench.receive_all(2)
            assert answers.keys() == {1, 2}
            assert bench.engine.lengths == {2: 1}

    run(test())


@pytest.mark.parametrize("error", [EngineError("The step is bad."), CapacityError("The cache is full.")])
def test_of_a_batch_that_fails_only_the_bad_step_fails(error: EngineError) -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        bench.engine.poisoned[2] = error
        for session in (1, 2, 3):
            await bench.tokens(session, [session], number=session)
        with serving(bench):
            answers = await bench.receive_all(3)
            assert answers[1] == Hidden(1, 1, 1, 1, 0.0, 0.0)
            assert answers[2] == Failed(2, 1, 2, str(error))
            assert answers[3] == Hidden(3, 1, 3, 1, 0.0, 0.0)
            await bench.tokens(1, [1], position=1)
            assert (await bench.receive_all(1))[1] == Hidden(1, 1, 0, 1, 0.0, 0.0)

    run(test())


def test_a_step_that_goes_back_forgets_what_lies_behind() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        with serving(bench):
            await bench.tokens(1, [1, 2, 3])
            await bench.tokens(1, [4, 5], position=1, number=1)
            for _ in range(2):
                assert isinstance((await bench.receive())[0], Hidden)
            assert bench.engine.lengths == {1: 3}

    run(test())


def test_a_step_that_waits_is_left_out_when_a_later_one_overwrites_it() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        await bench.tokens(1, [1] * 4)
        for position in (4, 5, 6):  # guesses, of which that at position 5 is wrong
            await bench.tokens(1, [position], position=position, number=position)
        await bench.tokens(2, [1], position=0, number=6)
        await bench.tokens(1, [2], position=5, number=7)
        await bench.tokens(1, [3], position=6, number=8)
        with serving(bench):
            answers = [(await bench.receive())[0] for _ in range(5)]
        told = [(answer.session, answer.step) for answer in answers if isinstance(answer, Hidden)]
        assert sorted(told) == [(1, 0), (1, 4), (1, 7), (1, 8), (2, 6)]
        assert bench.engine.lengths == {1: 7, 2: 1}
        assert [session for batch in bench.engine.batches for session in batch].count(1) == 4

    run(test())


def test_a_prompt_that_begins_before_a_later_step_runs_whole_and_is_cut_back() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        await bench.tokens(1, [1] * 20)
        await bench.tokens(1, [2], position=12, number=1)
        with serving(bench):
            answers = [(await bench.receive())[0] for _ in range(2)]
        assert [answer.step for answer in answers if isinstance(answer, Hidden)] == [0, 1]
        assert bench.engine.lengths == {1: 13}

    run(test())


@pytest.mark.parametrize("rows", [1, 20])
def test_a_step_that_is_being_computed_is_answered_though_a_later_one_overwrites_it(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("potluck.node.engine_loop.prompt_rows", lambda prompts, turn_s, spare_s: 7)

    async def test() -> None:
        bench, entered, gate = Bench(FIRST), asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def hold() -> None:
            loop.call_soon_threadsafe(entered.set)
            assert gate.wait(HANG_S)

        with serving(bench):
            await bench.tokens(1, [1])
            await bench.tokens(3, [1])
            await bench.receive_all(2)
            bench.engine.before, bench.engine.arranging = hold, {1}
            await bench.tokens(1, [1] * rows, position=1, number=1)
            await entered.wait()
            await bench.tokens(1, [2], position=2, number=2)
            await bench.tokens(1, [3], position=1, number=3)
            await bench.send(Ping(7))
            assert (await bench.receive())[0] == Pong(7, 2)
            gate.set()
            answers = [(await bench.receive())[0] for _ in range(2)]
        assert [answer.step for answer in answers if isinstance(answer, Hidden)] == [1, 3]
        assert bench.engine.lengths[1] == 2

    run(test())


def test_many_guesses_of_one_session_leave_a_prompt_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potluck.node.engine_loop.prompt_rows", lambda prompts, turn_s, spare_s: 10)

    async def test() -> None:
        bench = Bench(FIRST)
        for position in range(6):
            await bench.tokens(1, [1], position=position, number=position)
        await bench.tokens(2, [1] * 20)
        with serving(bench):
            for _ in range(7):
                assert isinstance((await bench.receive())[0], Hidden)
        assert bench.engine.batches == [[1], [2], [1], [2], [1], [1], [1], [1]]

    run(test())


def test_while_others_generate_a_prompt_runs_in_pieces_between_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potluck.node.engine_loop.prompt_rows", lambda prompts, turn_s, spare_s: 7)

    async def test() -> None:
        bench = Bench(LAST)
        prompt = [[float(number)] * WIDTH for number in range(18)]
        with serving(bench):
            await bench.rows(1, [[0, 0, 0]], asks=())
            assert isinstance((await bench.receive())[0], Scores)
            await bench.rows(2, prompt, asks=((),) * 9)
            await bench.rows(3, [[0, 0, 0]], asks=())
            messages = [await bench.receive() for _ in range(2)]
        assert [message.session for message, _ in messages if isinstance(message, Scores)] == [3, 2]
        assert bench.engine.batches == [[1], [2], [3], [2], [2]]
        message, payload = messages[1]
        assert isinstance(message, Scores)
        totals = [total for *_, total in unpack_scores(payload, message.counts)]
        assert totals == sorted(totals)
        assert len(totals) == 9

    run(test())


def test_on_a_route_of_two_stages_half_of_those_that_generate_run_at_once() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        for session in range(4):
            step = Step(session=session, route=1, step=0, position=0, rows=1, last=1, top=1, asks=(), stages=2)
            await bench.send(step, pack_ids(np.array([session], np.int32)))
        with serving(bench):
            await bench.receive_all(4)
        assert bench.engine.batches == [[0, 1], [2, 3]]

    run(test())


def test_one_sessions_guesses_do_not_keep_the_token_of_another_waiting() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        for session, position in ((1, 0), (1, 1), (1, 2), (2, 0), (2, 1)):
            step = Step(
                session=session, route=1, step=position, position=position, rows=1, last=1, top=1, asks=(), stages=2
            )
            await bench.send(step, pack_ids(np.array([5], np.int32)))
        with serving(bench):
            messages = [(await bench.receive())[0] for _ in range(5)]
        assert bench.engine.batches == [[1], [2], [1], [2], [1]]
        answered = [(message.session, message.step) for message in messages if isinstance(message, Hidden)]
        assert answered == [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]

    run(test())


def test_a_batch_for_which_memory_is_arranged_anew_does_not_keep_the_node_from_answering() -> None:
    async def test() -> None:
        bench, gate = Bench(FIRST), threading.Event()
        bench.engine.arranging, bench.engine.before = {1}, lambda: gate.wait(HANG_S)
        with serving(bench):
            await bench.tokens(1, [1])
            await bench.send(Ping(7))
            message, _ = await bench.receive()
            assert message == Pong(7, 0)
            gate.set()
            assert isinstance((await bench.receive())[0], Hidden)

    run(test())


def test_steps_that_end_at_different_layers_do_not_share_a_batch() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        await bench.tokens(1, [1], last=1)
        await bench.tokens(2, [1], last=0)
        with serving(bench):
            assert (await bench.receive_all(2)).keys() == {1, 2}
            assert bench.engine.batches == [[1], [2]]

    run(test())


WELCOME = Welcome(
    node="n1",
    model="",
    span=FIRST,
    engine=EngineKind.LLAMACPP,
    quantize=Quantize.NONE,
    attention=Attention.EXACT,
    rows=RowFormat.F32,
    context=1,
)
MALFORMED = {
    "no rows": (Step(session=1, route=1, step=0, position=0, rows=0, last=1, top=1, asks=(), stages=1), b""),
    "negative rows": (Step(session=1, route=1, step=0, position=0, rows=-1, last=1, top=1, asks=(), stages=1), b""),
    "fewer tokens": (Step(session=1, route=1, step=0, position=0, rows=2, last=1, top=1, asks=(), stages=1), bytes(4)),
    "more tokens": (Step(session=1, route=1, step=0, position=0, rows=1, last=1, top=1, asks=(), stages=1), bytes(8)),
    "half a token": (Step(session=1, route=1, step=0, position=0, rows=1, last=1, top=1, asks=(), stages=1), bytes(3)),
    "asks for more rows": (
        Step(session=1, route=1, step=0, position=0, rows=1, last=1, top=1, asks=((), ()), stages=1),
        bytes(4),
    ),
    "asks for nothing": (
        Step(session=1, route=1, step=0, position=0, rows=1, last=1, top=0, asks=((),), stages=1),
        bytes(4),
    ),
    "asks for too much": (
        Step(session=1, route=1, step=0, position=0, rows=1, last=1, top=257, asks=((),), stages=1),
        bytes(4),
    ),
    "more rows than a batch": (
        Step(session=1, route=1, step=0, position=0, rows=33, last=1, top=1, asks=(), stages=1),
        bytes(4 * 33),
    ),
    "before the first position": (
        Step(session=1, route=1, step=0, position=-1, rows=1, last=1, top=1, asks=(), stages=1),
        bytes(4),
    ),
    "no stages": (Step(session=1, route=1, step=0, position=0, rows=1, last=1, top=1, asks=(), stages=0), bytes(4)),
}


@pytest.mark.parametrize(("message", "payload"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_step_is_a_wire_error(message: Message, payload: bytes) -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        await bench.send(message, payload)
        with pytest.raises(WireError):
            await bench.serve()

    run(test())


@pytest.mark.parametrize("size", [0, 4 * WIDTH - 1, 4 * WIDTH + 4, 4])
def test_hidden_rows_of_another_size_are_a_wire_error(size: int) -> None:
    async def test() -> None:
        bench = Bench(LAST)
        await bench.send(
            Step(session=1, route=1, step=0, position=0, rows=1, last=LAYERS - 1, top=1, asks=(), stages=1), bytes(size)
        )
        with pytest.raises(WireError):
            await bench.serve()

    run(test())


def test_garbage_is_a_wire_error() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        await bench.link.send(b"\xff" * 40)
        with pytest.raises(WireError):
            await bench.serve()

    run(test())


@pytest.mark.parametrize("asked", [VOCABULARY, 2**31, 2**63, -1])
def test_a_client_that_asks_for_a_token_out_of_the_vocabulary_fails_alone(asked: int) -> None:
    async def test() -> None:
        bench = Bench(LAST)
        with serving(bench):
            await bench.rows(1, [[1, 2, 3]], asks=((asked,),))
            assert isinstance((await bench.receive())[0], Failed)
            await bench.rows(2, [[1, 2, 3]], asks=((),))
            assert isinstance((await bench.receive())[0], Scores)

    run(test())


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_logits_that_are_not_finite_are_a_failed_step(value: float) -> None:
    async def test() -> None:
        bench = Bench(LAST)
        with serving(bench):
            await bench.rows(1, [[1, value, 3]], asks=((),))
            assert isinstance((await bench.receive())[0], Failed)

    run(test())


def test_a_refusal_ends_the_stage_with_its_reason() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        await bench.send(Refusal("Another model is served now."))
        with pytest.raises(Refused, match=r"Another model is served now\."):
            await bench.serve()

    run(test())


def test_when_the_link_closes_no_session_stays_in_the_cache() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        with serving(bench) as task:
            for session in (1, 2):
                await bench.tokens(session, [1])
            await bench.receive_all(2)
            await bench.link.close()
            with pytest.raises(LinkClosed):
                await task
        assert bench.engine.lengths == {}

    run(test())


@asynccontextmanager
async def watched(span: Span) -> AsyncIterator[tuple[Bench, asyncio.Task[Welcome | Redirect | None], list[str]]]:
    """A stage that serves, its end, and what it tells the owner."""
    bench, said = Bench(span), list[str]()
    bench.loop = EngineLoop(
        bench.engine, SPEED, bench.theirs, RowFormat.F32, cast(Cores, TwoCores()), Worker(), said.append
    )
    end = asyncio.create_task(bench.loop.run())
    try:
        yield bench, end, said
    finally:
        end.cancel()
        await asyncio.gather(end, return_exceptions=True)


def test_what_was_sent_on_is_sent_once_more_from_the_journal() -> None:
    async def test() -> None:
        async with watched(FIRST) as (bench, _, _):
            await bench.tokens(7, [1, 2, 3])
            _, sent = await bench.receive()
            await bench.send(Recall(7, 5, 9, 1, 2))
            message, payload = await bench.receive()
            assert message == Hidden(7, 5, 9, 2, 0.0, 0.0)
            assert bytes(payload) == bytes(sent)[4 * WIDTH :]
            assert bench.engine.batches == [[7]]

    run(test())


def test_what_the_journal_does_not_hold_is_a_failure() -> None:
    async def test() -> None:
        async with watched(FIRST) as (bench, _, _):
            await bench.tokens(7, [1, 2, 3])
            await bench.receive()
            await bench.send(Recall(7, 5, 9, 1, 3))
            assert (await bench.receive())[0] == Failed(7, 5, 9, "The journal does not reach that far back.")
            await bench.send(Close(7))
            await bench.tokens(8, [1])  # so that the close was worked off
            await bench.receive()
            await bench.send(Recall(7, 5, 9, 0, 1))
            assert isinstance((await bench.receive())[0], Failed)

    run(test())


def test_of_guesses_that_were_wrong_nothing_is_recalled() -> None:
    async def test() -> None:
        async with watched(FIRST) as (bench, _, _):
            await bench.tokens(7, [1, 2, 3])
            await bench.receive()
            for position, token in ((3, 6), (4, 7), (3, 4)):  # the first two are wrong
                await bench.tokens(7, [token], position=position, number=position)
                await bench.receive()
            await bench.send(Recall(7, 1, 9, 0, 4))
            message, payload = await bench.receive()
            assert message == Hidden(7, 1, 9, 4, 0.0, 0.0)
            assert unpack_rows(payload, 4, WIDTH, RowFormat.F32)[:, 0].tolist() == [2, 3, 4, 5]
            await bench.send(Recall(7, 1, 10, 0, 5))
            assert isinstance((await bench.receive())[0], Failed)

    run(test())


@pytest.mark.parametrize("span", [FIRST, LAST])
def test_a_step_to_keep_is_computed_and_journalled_but_not_sent_on(span: Span) -> None:
    async def test() -> None:
        async with watched(span) as (bench, _, _):
            step = Step(
                session=7, route=5, step=9, position=0, rows=2, last=span.last, top=1, asks=(), stages=2, keep=True
            )
            data = np.ones((2, WIDTH), np.float32)
            ids = np.array([1, 1], np.int32)
            await bench.send(step, pack_ids(ids) if span is FIRST else pack_rows(data, RowFormat.F32))
            assert (await bench.receive())[0] == Kept(7, 5, 9, 0.0, 0.0)
            assert bench.engine.lengths == {7: 2}
            await bench.send(Recall(7, 5, 10, 0, 2))
            assert isinstance((await bench.receive())[0], Hidden if span is FIRST else Failed)

    run(test())


def test_a_ping_is_answered_with_the_number_of_sessions() -> None:
    async def test() -> None:
        async with watched(FIRST) as (bench, _, _):
            await bench.tokens(7, [1])
            await bench.receive()
            await bench.send(Ping(3), b"echo")
            message, payload = await bench.receive()
            assert (message, bytes(payload)) == (Pong(3, 1), b"echo")

    run(test())


def test_the_owner_is_told_what_the_coordinator_says() -> None:
    async def test() -> None:
        async with watched(FIRST) as (bench, _, said):
            await bench.send(Notice("The coordinator passes this node over."))
            await bench.send(Ping(1))
            await bench.receive()
            assert said == ["The coordinator passes this node over."]

    run(test())


def test_a_new_token_is_handed_on() -> None:
    async def test() -> None:
        bench, tokens = Bench(FIRST), list[str]()
        bench.loop = EngineLoop(
            bench.engine, SPEED, bench.theirs, RowFormat.F32, cast(Cores, TwoCores()), Worker(), on_token=tokens.append
        )
        with serving(bench):
            await bench.send(PeerToken("another"))
            await bench.send(Ping(1))
            await bench.receive()
            assert tokens == ["another"]

    run(test())


def test_what_is_told_of_other_coordinators_is_handed_on() -> None:
    async def test() -> None:
        bench, told, others = Bench(FIRST), list[Sequence[Coordinator]](), (Coordinator("http://b:1", bytes(32)),)
        bench.loop = EngineLoop(
            bench.engine, SPEED, bench.theirs, RowFormat.F32, cast(Cores, TwoCores()), Worker(), on_fleet=told.append
        )
        with serving(bench):
            await bench.send(Fleet(others))
            await bench.send(Ping(1))
            await bench.receive()
            assert told == [others]

    run(test())


@pytest.mark.parametrize("last", [WELCOME, Released(), Redirect("http://b:1", bytes(32))])
def test_a_stage_ends_when_it_gets_other_layers_or_goes(last: Message) -> None:
    async def test() -> None:
        async with watched(FIRST) as (bench, end, _):
            await bench.tokens(7, [1])
            await bench.receive()
            await bench.send(last)
            assert await end == (None if isinstance(last, Released) else last)
            assert bench.engine.lengths == {}

    run(test())


def test_a_sessions_keys_and_values_are_given_and_taken() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        with serving(bench):
            await bench.tokens(7, [1, 2, 3])
            await bench.receive()
            await bench.send(Export(7, 1000))
            message, payload = await bench.receive()
            assert (message, bytes(payload)) == (Exported(7, 0), b"...")
            await bench.send(Import(8, 2), b"...")
            await bench.send(Import(8, 0), b"..")
            assert (await bench.receive())[0] == Imported(8, 5)
            await bench.tokens(8, [4], position=5)
            assert (await bench.receive())[0] == Hidden(8, 1, 0, 1, 0.0, 0.0)

    run(test())


def test_a_session_that_was_given_with_guesses_that_were_wrong_goes_on_without_them() -> None:
    async def test() -> None:
        giver, heir = Bench(FIRST), Bench(FIRST)
        with serving(giver), serving(heir):
            await giver.tokens(7, [1, 2, 3])
            await giver.receive()
            await giver.tokens(7, [6], position=3, number=1)
            await giver.receive()
            await giver.send(Export(7, 1000))
            _, payload = await giver.receive()
            await heir.send(Import(7, 0), bytes(payload))
            assert (await heir.receive())[0] == Imported(7, 4)
            await heir.tokens(7, [4], position=3, number=2)
            assert isinstance((await heir.receive())[0], Hidden)
            assert heir.engine.lengths == {7: 4}

    run(test())


@pytest.mark.parametrize("export", [Export(9, 1000), Export(7, 2)], ids=["unknown", "too much"])
def test_what_cannot_be_given_is_nothing(export: Export) -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        with serving(bench):
            await bench.tokens(7, [1, 2, 3])
            await bench.receive()
            await bench.send(export)
            message, payload = await bench.receive()
            assert (message, bytes(payload)) == (Exported(export.session, 0), b"")

    run(test())


def test_what_cannot_be_taken_is_told() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        with serving(bench):
            await bench.send(Import(8, 0), b"?")
            assert (await bench.receive())[0] == Imported(8, 0)

    run(test())


def test_a_session_that_comes_back_before_its_close_is_done_leaves_the_cache_with_the_link() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        with serving(bench) as task:
            await bench.send(Close(1))
            await bench.tokens(1, [5])
            await bench.receive()
            assert bench.engine.lengths == {1: 1}
            await bench.link.close()
            with pytest.raises(LinkClosed):
                await task
        assert bench.engine.lengths == {}

    run(test())


def test_a_session_that_is_closed_while_it_comes_is_forgotten() -> None:
    async def test() -> None:
        bench = Bench(FIRST)
        with serving(bench):
            await bench.send(Import(8, 2), b"...")
            await bench.send(Close(8))
            await bench.send(Import(8, 0), b"..")
            assert (await bench.receive())[0] == Imported(8, 2)
            assert bench.engine.lengths == {8: 2}

    run(test())
