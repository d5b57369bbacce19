"""`Generation` over a swarm with nodes in this process that compute a toy model."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kit.runner import run
from kit.toy_swarm import (
    END,
    LETTERS,
    TOKENIZER,
    FewLetters,
    Node,
    answer,
    job,
    make_service,
    text,
    toy_answer,
    toy_logits,
    toy_logprobs,
    toy_swarm,
)
from kit.waiting import until
from potluck.coordinator.compose import SwarmService
from potluck.coordinator.generation import outlook
from potluck.coordinator.generation import run as module
from potluck.coordinator.generation.job import Delta, Scored
from potluck.coordinator.generation.sampling import SamplingParams
from potluck.coordinator.sessions.claim import Claim, Rank
from potluck.coordinator.swarm.heartbeat import Heartbeat
from potluck.coordinator.swarm.tally import Incident, Remedy, TokenKind
from potluck.errors import RequestError, Unavailable
from potluck.types import (
    NodeState,
    PauseReason,
    Span,
)
from potluck.wire.codec import encode
from potluck.wire.messages import (
    Leaving,
    Pause,
    Resume,
    Step,
)


@pytest.mark.parametrize("spans", [["0-3"], ["0-1", "2-3"], ["0", "1", "2", "3"], ["0-2", "1-3"]])
def test_greedy_text_is_that_of_the_model_however_it_is_split(spans: list[str]) -> None:
    async def test() -> None:
        async with toy_swarm(*spans) as (service, _):
            deltas = await answer(service, job(max_tokens=6))
            assert text(deltas) == toy_answer("potluck", 6)
            assert [delta.finish for delta in deltas] == [None] * 5 + ["length"]
            assert sum(delta.generated for delta in deltas) == 6

    run(test())


def test_an_answer_ends_with_the_models_own_stop_token() -> None:
    prompt = next(a + b for a in LETTERS for b in LETTERS if len(toy_answer(a + b, 20)) == 4)

    async def test() -> None:
        async with toy_swarm("0-3") as (service, _):
            deltas = await answer(service, job(prompt, 20))
            assert text(deltas) == toy_answer(prompt, 20)
            assert deltas[-1] == Delta(tokens=[Scored(END, None)], finish="stop", nodes=("toy 0-3",))
            assert sum(delta.generated for delta in deltas) == 5

    run(test())


def test_the_token_that_ends_an_answer_has_its_log_probability_too() -> None:
    """Else a client that scores a prompt, and leaves out the last token as the answer's, would lose one of its own."""
    prompt = next(a + b for a in LETTERS for b in LETTERS if not toy_answer(a + b, 1))

    async def test() -> None:
        async with toy_swarm("0-3") as (service, _):
            echoed, ended = await answer(service, job(prompt, 1, logprobs=1, echo=True))
            assert len(echoed.tokens) == len(prompt)
            [scored] = ended.tokens
            exact = toy_logprobs(TOKENIZER.encode(prompt, special=True, bos=True))[END]
            assert (scored.token, scored.top) == (END, ((END, scored.logprob),))
            assert scored.logprob == pytest.approx(exact, abs=1e-5)

    run(test())


def test_a_stop_string_ends_the_answer_before_it() -> None:
    whole = toy_answer("potluck", 6)

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            deltas = await answer(service, job(max_tokens=6, stops=(whole[2:4],)))
            assert text(deltas) == whole[:2]
            assert deltas[-1].finish == "stop"
            assert len(nodes[0].steps) == 4  # nothing was computed after it

    run(test())


@pytest.mark.parametrize(("least", "length"), [(0, 3), (5, 5)])
def test_who_watches_an_answer_can_end_it_after_its_least_tokens(least: int, length: int) -> None:
    whole, begun = toy_answer("potluck", 6), list[list[str]]()

    def watch() -> Callable[[str], bool]:
        told: list[str] = []
        begun.append(told)

        def is_over(text: str) -> bool:
            told.append(text)
            return "".join(told).startswith(whole[:3])

        return is_over

    async def test() -> None:
        async with toy_swarm("0-3") as (service, nodes):
            for _ in range(2):
                deltas = await answer(service, job(max_tokens=6, watch=watch, min_tokens=least))
                assert text(deltas) == whole[:length]
                assert deltas[-1].finish == "stop"
            assert ["".join(told) for told in begun] == [whole[:length]] * 2
            assert len(nodes[0].steps) == 2 * length

    run(test())


@pytest.mark.parametrize(("tokens", "generated"), [(0, 0), (1, 1), (3, 3)])
def test_max_tokens_is_kept(tokens: int, generated: int) -> None:
    async def test() -> None:
        async with toy_swarm("0-3") as (service, nodes):
            deltas = await answer(service, job(max_tokens=tokens))
            assert text(deltas) == toy_answer("potluck", tokens)
            assert deltas[-1].finish == "length"
            assert sum(delta.generated for delta in deltas) == generated
            assert len(nodes[0].steps) == max(1, tokens)

    run(test())


def test_log_probabilities_are_those_of_the_model() -> None:
    async def test() -> None:
        async with toy_swarm("0-3") as (service, _):
            [delta] = await answer(service, job("ab", 1, logprobs=3))
            [scored] = delta.tokens
            exact = toy_logprobs([0, 1])
            best = np.argsort(-exact, kind="stable")[:3]
            assert scored.token == best[0]
            assert scored.logprob == pytest.approx(exact[best[0]], abs=1e-5)
            assert [token for token, _ in scored.top] == best.tolist()
            assert [logprob for _, logprob in scored.top] == pytest.approx(exact[best], abs=1e-5)

    run(test())


@pytest.mark.parametrize("length", [1, 2, 64, 65, 200])
@pytest.mark.parametrize("tokens", [0, 2])
def test_echo_scores_every_token_of_the_prompt(length: int, tokens: int) -> None:
    prompt = (LETTERS * 8)[:length]

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            first, *rest = await answer(service, job(prompt, tokens, logprobs=1, echo=True))
            ids = TOKENIZER.encode(prompt, special=True, bos=True)
            assert first.generated == 0
            assert first.tokens[0] == Scored(ids[0], None)
            assert [scored.token for scored in first.tokens] == ids
            exact = [toy_logprobs(ids[:end])[ids[end]] for end in range(1, length)]
            assert [scored.logprob for scored in first.tokens[1:]] == pytest.approx(exact, abs=1e-4)
            assert text(rest) == toy_answer(prompt, tokens)
            assert max(nodes[0].steps) <= 64

    run(test())


def test_a_long_prompt_travels_in_steps_of_bounded_size() -> None:
    prompt = (LETTERS * 60)[:1300]

    async def test() -> None:
        async with toy_swarm("0-1", "2-3", positions=2000) as (service, nodes):
            deltas = await answer(service, job(prompt, 3))
            assert text(deltas) == toy_answer(prompt, 3)
            assert nodes[1].steps == [64] * 20 + [20, 1, 1]

    run(test())


@pytest.mark.parametrize("echo", [False, True])
def test_how_far_the_prompt_is_read_is_told_as_it_comes_through_the_route(echo: bool) -> None:
    prompt = (LETTERS * 12)[:300]

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            gates = [asyncio.Event() for _ in range(5)]

            async def wait(step: Step) -> None:
                await gates[min(step.position // 64, 4)].wait()

            nodes[1].before = wait
            told, words = [], []
            async for delta in service.generation(TOKENIZER).answer(job(prompt, 3, progress=True, echo=echo)):
                if delta.progress is None:
                    words.append(delta)
                else:
                    assert (delta.text, delta.tokens, delta.finish, delta.generated) == ("", [], None, 0)
                    told.append(delta.progress)
                    gates[min(len(told), 5) - 1].set()
            assert [progress.processed for progress in told] == [0, 64, 128, 192, 256, 300]
            assert {(progress.total, progress.cached) for progress in told} == {(300, 0)}
            assert [progress.elapsed_s for progress in told] == sorted(progress.elapsed_s for progress in told)
            assert text(words) == toy_answer(prompt, 3)
            nodes[1].before = None
            again = await answer(service, job(prompt, 3, progress=True))
            held = [(delta.progress.cached, delta.progress.processed) for delta in again if delta.progress]
            assert held == [(299, 299), (299, 300)]
            assert text(again) == toy_answer(prompt, 3)

    run(test())


def test_a_prompt_that_nobody_waits_for_any_more_is_read_no_further() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            never = asyncio.Event()

            async def wait(step: Step) -> None:
                if step.position:
                    await never.wait()

            nodes[1].before = wait
            async with aclosing(service.generation(TOKENIZER).answer(job(LETTERS * 20, 3, progress=True))) as deltas:
                async for delta in deltas:
                    assert delta.progress is not None
                    if delta.progress.processed:
                        break
            assert service.swarm.kv_budget.streams == 0
            never.set()

    run(test())


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("after", [1, 2, 5])
@pytest.mark.parametrize("seed", [None, 7])
def test_a_node_lost_in_mid_answer_changes_nothing(lost: int, after: int, seed: int | None) -> None:
    one = job(max_tokens=6, params={"seed": seed}) if seed is None else job(max_tokens=6)
    if seed is not None:
        one = replace(one, params=SamplingParams(temperature=1.5, seed=seed))

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, _):
            undisturbed = await answer(service, one)
        async with toy_swarm("0-1", "2-3", "0-1", "2-3") as (service, nodes):
            victim = nodes[lost]
            victim.before = victim.die_with(after)
            deltas = await answer(service, one)
            assert len(victim.steps) == min(after, len(undisturbed))
            assert text(deltas) == text(undisturbed)
            assert [delta.finish for delta in deltas] == [delta.finish for delta in undisturbed]

    run(test())


def test_an_answer_that_has_begun_waits_for_lost_layers_to_come_back() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            stream = service.generation(TOKENIZER).answer(job(max_tokens=6))
            begun = await anext(stream)
            await nodes.pop().link.close()
            rest = asyncio.create_task(anext(stream))
            await until(lambda: bool(service.swarm.missing()))
            nodes.append(Node(service, Span(2, 3)))
            deltas = [begun, await rest, *[delta async for delta in stream]]
            assert text(deltas) == toy_answer("potluck", 6)

    run(test())


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_only_the_lost_span_computes_what_was_there(lost: int) -> None:
    """The others compute one row a token, and at most one of them again: the one that was under way."""
    prompt = 50 * "potluck"

    async def test() -> None:
        async with toy_swarm("0", "1-2", "3", "0", "1-2", "3") as (service, nodes):
            stream = service.generation(TOKENIZER).answer(job(prompt, max_tokens=6))
            deltas = [await anext(stream)]
            serving = sorted((node for node in nodes if node.cache), key=lambda node: node.span)
            heir = next(node for node in nodes if node.span == serving[lost].span and not node.cache)
            await serving[lost].link.close()
            deltas += [delta async for delta in stream]
            assert text(deltas) == toy_answer(prompt, 6)
            assert sum(heir.steps) == 350 + 5
            others = [sum(node.steps) for node in serving if node is not serving[lost]]
            assert all(350 + 5 <= rows <= 350 + 6 for rows in others)
            assert [sum(node.recalls) for node in serving] == [
                350 if node is serving[lost - 1] and lost else 0 for node in serving
            ]
            assert service.swarm.tally.mended == {Remedy.REBUILT: 1}

    run(test())


def test_where_the_journal_does_not_reach_all_is_computed_anew() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3", "2-3") as (service, nodes):
            stream = service.generation(TOKENIZER).answer(job(max_tokens=6))
            deltas = [await anext(stream)]
            nodes[0].forgetful = True
            [victim] = [node for node in nodes[1:] if node.cache]
            await victim.link.close()
            deltas += [delta async for delta in stream]
            assert text(deltas) == toy_answer("potluck", 6)
            assert nodes[0].recalls
            assert service.swarm.tally.mended == {Remedy.REPLAYED: 1}

    run(test())


@pytest.mark.parametrize("forgets", [0, 1])
def test_a_model_that_cannot_surely_forget_is_fed_anew_when_a_node_is_lost(forgets: int) -> None:
    """What the other stages hold of the step that was lost may be more than they can undo."""

    async def test() -> None:
        async with toy_swarm("0-1", "2-3", "2-3") as (service, nodes):
            service.swarm.forgets = forgets
            stream = service.generation(TOKENIZER).answer(job(max_tokens=6))
            deltas = [await anext(stream)]
            held = sum(nodes[0].steps)
            [victim] = [node for node in nodes[1:] if node.cache]
            await victim.link.close()
            deltas += [delta async for delta in stream]
            assert text(deltas) == toy_answer("potluck", 6)
            assert not nodes[0].recalls
            assert sum(nodes[0].steps) >= held + held + 5
            assert service.swarm.tally.mended == {Remedy.REPLAYED: 1}

    run(test())


def test_other_spans_take_over_where_nobody_has_the_lost_one() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3", "0-2", "3") as (service, nodes):
            stream = service.generation(TOKENIZER).answer(job(max_tokens=6))
            deltas = [await anext(stream)]
            victim = next(node for node in nodes if node.cache and node.span.first > 0)
            await victim.link.close()
            deltas += [delta async for delta in stream]
            assert text(deltas) == toy_answer("potluck", 6)
            assert service.swarm.tally.mended == {Remedy.REPLAYED: 1}

    run(test())


def test_a_node_that_leaves_is_let_go_when_others_have_its_sessions() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3", "2-3") as (service, nodes):
            stream = service.generation(TOKENIZER).answer(job(max_tokens=6))
            deltas = [await anext(stream)]
            [leaver] = [node for node in nodes[1:] if node.cache]
            await leaver.link.send(encode(Leaving()))
            await until(lambda: service.swarm.nodes[leaver.name].state is NodeState.LEAVING)
            assert not leaver.released
            deltas += [await anext(stream)]
            await until(lambda: leaver.released and not leaver.cache)
            deltas += [delta async for delta in stream]
            assert text(deltas) == toy_answer("potluck", 6)

    run(test())


@pytest.mark.parametrize(("gives", "takes"), [(True, True), (False, True), (True, False)])
def test_keys_and_values_move_to_a_twin_or_else_are_computed_there(gives: bool, takes: bool) -> None:
    async def scenario() -> None:
        async with toy_swarm("0-1", "2-3", "2-3", twin="same") as (service, nodes):
            generator = service.generation(TOKENIZER).answer(job(max_tokens=12))
            text = [(await anext(generator)).text for _ in range(4)]
            [leaver] = [node for node in nodes[1:] if node.cache]
            [heir] = [node for node in nodes[1:] if node is not leaver]
            leaver.gives, heir.takes = gives, takes
            await leaver.link.send(encode(Leaving()))
            text += [delta.text async for delta in generator]
            assert "".join(text) == toy_answer("potluck", 12)
            assert (max(heir.steps) == 1) == (gives and takes)
            assert bool(nodes[0].recalls) != (gives and takes)
            assert service.swarm.tally.mended == {Remedy.MOVED if gives and takes else Remedy.REBUILT: 1}

    run(scenario())


def test_an_heir_that_is_lost_with_what_it_was_given_is_replaced() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3", "2-3", "2-3", twin="same") as (service, nodes):
            stream = service.generation(TOKENIZER).answer(job(max_tokens=6))
            deltas = [await anext(stream)]
            [leaver] = [node for node in nodes[1:] if node.cache]
            heirs = [node for node in nodes[1:] if node is not leaver]
            for heir in heirs:
                heir.fragile = True
            await leaver.link.send(encode(Leaving()))
            deltas += [delta async for delta in stream]
            assert text(deltas) == toy_answer("potluck", 6)
            assert [heir.gone for heir in heirs].count(True) == 1

    run(test())


def test_a_node_that_leaves_without_an_heir_serves_to_the_end() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            stream = service.generation(TOKENIZER).answer(job(max_tokens=6))
            deltas = [await anext(stream)]
            await nodes[1].link.send(encode(Leaving()))
            await until(lambda: service.swarm.nodes[nodes[1].name].state is NodeState.LEAVING)
            deltas += [delta async for delta in stream]
            assert text(deltas) == toy_answer("potluck", 6)
            await until(lambda: nodes[1].released)

    run(test())


def test_layers_that_do_not_come_back_end_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.0)

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            stream = service.generation(TOKENIZER).answer(job(max_tokens=6))
            await anext(stream)
            await nodes.pop().link.close()
            with pytest.raises(Unavailable, match="no node has come to serve layers 2-3"):
                await anext(stream)

    run(test())


def test_an_answer_that_has_not_begun_does_not_wait_for_layers() -> None:
    async def test() -> None:
        with pytest.raises(Unavailable, match="No node serves layers 0-3 now"):
            await answer(make_service(), job())

    run(test())


def test_too_many_positions_are_refused() -> None:
    async def test() -> None:
        async with toy_swarm("0-3", positions=10) as (service, _):
            assert text(await answer(service, job("abc", 8))) == toy_answer("abc", 8)
            with pytest.raises(Unavailable, match="can hold 11 positions"):
                await answer(service, job("abc", 9))

    run(test())


def test_a_route_that_is_lost_again_and_again_ends_the_answer() -> None:
    async def test() -> None:
        async with toy_swarm("0-3") as (service, [node]):

            async def fail(_: Step) -> None:
                node.failing = True

            node.before = fail
            with pytest.raises(Unavailable, match="lost its route"):
                await answer(service, job())

    run(test())


def test_a_node_that_always_fails_does_not_keep_an_answer_from_a_sound_one() -> None:
    async def test() -> None:
        async with toy_swarm("0-3", "0-3") as (service, [broken, _]):

            async def fail(_: Step) -> None:
                broken.failing = True

            broken.before = fail
            assert text(await answer(service, job())) == toy_answer("potluck", 8)

    run(test())


def test_closing_the_generator_closes_its_session_on_every_node() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            async with aclosing(service.generation(TOKENIZER).answer(job(max_tokens=100))) as stream:
                await anext(stream)
                assert all(len(node.cache) == 1 for node in nodes)
            for node in nodes:
                await node.closed.wait()

    run(test())


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("length", [5, 1300])
def test_cancelling_in_the_middle_of_a_step_closes_the_session(stage: int, length: int) -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3", positions=2000) as (service, nodes):
            entered, go_on = asyncio.Event(), asyncio.Event()

            async def hold(_: Step) -> None:
                entered.set()
                await go_on.wait()

            nodes[stage].before = hold
            task = asyncio.create_task(answer(service, job((LETTERS * 60)[:length], 5)))
            await entered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go_on.set()
            for node in nodes:
                await node.closed.wait()

    run(test())


def test_eight_at_once_are_each_answered_as_alone() -> None:
    prompts = [LETTERS[start : start + 5 + start] for start in range(8)]

    async def test() -> None:
        async with toy_swarm("0-1", "2-3", "0-2", "3") as (service, _):
            answers = await asyncio.gather(*(answer(service, job(prompt, 7)) for prompt in prompts))
            assert list(map(text, answers)) == [toy_answer(prompt, 7) for prompt in prompts]

    run(test())


def test_more_than_there_is_room_for_take_turns() -> None:
    async def test() -> None:
        async with toy_swarm("0-3", positions=12) as (service, _):
            answers = await asyncio.gather(*(answer(service, job("abc", 6)) for _ in range(5)))
            assert list(map(text, answers)) == [toy_answer("abc", 6)] * 5

    run(test())


def test_tokens_lifted_by_a_bias_come_from_beyond_the_best() -> None:
    best = toy_answer("potluck", 1)
    other = (LETTERS.index(best) - 1) % END  # the least likely

    async def test() -> None:
        async with toy_swarm("0-3") as (service, _):
            deltas = await answer(service, job(max_tokens=1, params={"logit_bias": {other: 100.0}}))
            assert text(deltas) == LETTERS[other]

    run(test())


@pytest.mark.parametrize(("few", "steps"), [(256, 4), (0, 8)])
def test_only_what_the_grammar_allows_comes_however_unlikely(
    few: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for by name at once, or when the likeliest tokens turn out to hold none of it."""
    monkeypatch.setattr(outlook, "_FEW", few)
    monkeypatch.setattr(outlook, "MAX_CANDIDATES", 1)
    history = TOKENIZER.encode("potluck", special=True, bos=True)
    for _ in range(4):
        history.append(int(toy_logits(history)[:3].argmax()))

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            deltas = await answer(service, job(max_tokens=20, grammar=FewLetters()))
            assert text(deltas) == "".join(LETTERS[token] for token in history[7:])
            assert deltas[-1].finish == "stop"
            assert len(nodes[0].steps) == steps

    run(test())


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("after", range(1, 8))
def test_a_node_lost_while_a_row_is_asked_for_again_changes_nothing(
    lost: int, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlook, "_FEW", 0)
    monkeypatch.setattr(outlook, "MAX_CANDIDATES", 1)
    one = job(max_tokens=20, grammar=FewLetters())

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, _):
            undisturbed = await answer(service, one)
        async with toy_swarm("0-1", "2-3", "0-1", "2-3") as (service, nodes):
            victim = nodes[lost]
            victim.before = victim.die_with(after)
            assert text(await answer(service, one)) == text(undisturbed)
            assert len(victim.steps) == after

    run(test())


def test_an_empty_stop_string_is_refused_before_anything_opens() -> None:
    async def test() -> None:
        async with toy_swarm("0-3") as (service, [node]):
            with pytest.raises(RequestError):
                await answer(service, job(stops=("",)))
            assert node.steps == []

    run(test())


def test_the_model_cannot_end_an_answer_before_its_least_tokens() -> None:
    prompt = next(a + b for a in LETTERS for b in LETTERS if len(toy_answer(a + b, 20)) == 4)
    head = TOKENIZER.encode(prompt + toy_answer(prompt, 4), special=True, bos=True)
    second = int(np.argsort(toy_logits(head))[-2])  # the end of the text is the best

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, _):
            for least, more in [(4, ""), (5, LETTERS[second])]:
                deltas = await answer(service, job(prompt, 5, min_tokens=least))
                assert text(deltas) == toy_answer(prompt, 4) + more
                assert deltas[-1].finish == ("length" if more else "stop")
            [*_, scored] = await answer(service, job(prompt, 5, min_tokens=5, logprobs=2))
            assert [token for token, _ in scored.tokens[0].top] == [END, second]  # the model's, whatever is sampled

    run(test())


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_an_answer_with_least_tokens_never_has_the_end_of_text_among_them(ignore_eos: bool) -> None:
    async def test() -> None:
        async with toy_swarm("0-3") as (service, _):
            one = job("ab", 200, min_tokens=200, ignore_eos=ignore_eos, logprobs=0)
            hot = replace(one, params=SamplingParams(temperature=2, seed=1))
            for each in (one, hot):
                deltas = await answer(service, each)
                assert len(text(deltas)) == 200
                assert all(scored.token != END for delta in deltas for scored in delta.tokens)

    run(test())


def test_stop_strings_count_only_after_the_least_tokens() -> None:
    whole = toy_answer("potluck", 6)
    assert len(set(whole)) == 6

    async def test() -> None:
        async with toy_swarm("0-3") as (service, _):
            for least, shown in [(0, whole[:2]), (4, whole[:2]), (5, whole)]:
                deltas = await answer(service, job(max_tokens=6, stops=(whole[2:4],), min_tokens=least))
                assert text(deltas) == shown
                assert deltas[-1].finish == ("length" if least == 5 else "stop")

    run(test())


LONG = LETTERS[:20]


def cached(deltas: list[Delta]) -> int:
    return sum(delta.cached for delta in deltas)


def test_the_next_turn_of_a_chat_feeds_only_what_is_new() -> None:
    first = toy_answer(LONG, 6)
    turn = LONG + first + "next"

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            assert cached(await answer(service, job(LONG, 6))) == 0
            deltas = await answer(service, job(turn, 3))
            assert text(deltas) == toy_answer(turn, 3)
            assert [delta.cached for delta in deltas] == [25, 0, 0]  # the answer's last token was never fed
            for node in nodes:
                assert node.steps == [20, 1, 1, 1, 1, 1, 5, 1, 1]
                assert len(node.cache) == 1

    run(test())


@pytest.mark.parametrize("same", [16, 19, 20, 22])
def test_a_prompt_that_goes_another_way_feeds_what_differs(same: int) -> None:
    whole = LONG + toy_answer(LONG, 6)
    other = whole[:same] + "".join(LETTERS[LETTERS.index(letter) - 1] for letter in whole[same:]) + "zzz"

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, _):
            await answer(service, job(LONG, 6))
            for _ in range(2):  # the second time the session is what the first has made of it
                deltas = await answer(service, job(other, 4))
                assert text(deltas) == toy_answer(other, 4)
            assert cached(deltas) == len(other) - 1

    run(test())


def test_the_same_prompt_again_feeds_its_last_token_only() -> None:
    async def test() -> None:
        async with toy_swarm("0-3") as (service, [node]):
            for known in (0, len(LONG) - 1):
                deltas = await answer(service, job(LONG, 100))
                assert (text(deltas), cached(deltas)) == (toy_answer(LONG, 100), known)
            assert node.steps.count(20) == 1

    run(test())


def test_tokens_and_sessions_are_counted() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, _):
            for _ in range(2):
                await answer(service, job(LONG, 4, ignore_eos=True))
            tally = service.swarm.tally
            assert (tally.opened, tally.resumed, tally.mended.total()) == (1, 1, 0)
            cached = len(LONG) - 1
            assert tally.tokens == {TokenKind.PROMPT: len(LONG) + 1, TokenKind.CACHED: cached, TokenKind.GENERATED: 8}

    run(test())


def test_a_prompt_that_is_scored_is_fed_whole() -> None:
    async def test() -> None:
        async with toy_swarm("0-3") as (service, _):
            await answer(service, job(LONG, 6))
            scored, *rest = await answer(service, job(LONG, 2, echo=True, logprobs=0))
            ids = TOKENIZER.encode(LONG, special=True, bos=True)
            assert [one.token for one in scored.tokens] == ids
            assert cached([scored, *rest]) == 0
            assert cached(await answer(service, job(LONG + "x", 1))) >= 19

    run(test())


def test_an_answer_that_the_client_leaves_between_steps_is_of_use_to_the_next() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, _):
            async with aclosing(service.generation(TOKENIZER).answer(job(LONG, 100))) as stream:
                await anext(stream)
                await anext(stream)
            deltas = await answer(service, job(LONG + toy_answer(LONG, 1) + "x", 2))
            assert cached(deltas) == 21

    run(test())


def held_after_the_prompt(node: Node) -> tuple[asyncio.Event, asyncio.Event]:
    """Lets the node hold the first step after the prompt. Returns what tells that it does, and what lets it go on."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def hold(step: Step) -> None:
        if step.position:
            entered.set()
            await go_on.wait()

    node.before = hold
    return entered, go_on


@pytest.mark.parametrize("stage", [0, 1])
def test_an_answer_that_is_cancelled_in_a_step_is_of_use_to_the_next(stage: int) -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            entered, go_on = held_after_the_prompt(nodes[stage])
            task = asyncio.create_task(answer(service, job(LONG, 100)))
            await entered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go_on.set()
            again = await answer(service, job(LONG, 2))
            assert cached(again) == len(LONG) - 1
            assert text(again) == toy_answer(LONG, 2)

    run(test())


def test_an_answer_that_is_cancelled_in_a_step_is_forgotten_where_nodes_cannot_forget_the_step() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            service.swarm.forgets = 0
            entered, go_on = held_after_the_prompt(nodes[1])
            task = asyncio.create_task(answer(service, job(LONG, 100)))
            await entered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go_on.set()
            for node in nodes:
                await node.closed.wait()
            assert cached(await answer(service, job(LONG, 2))) == 0

    run(test())


@pytest.mark.parametrize("lost", [0, 1])
def test_a_resumed_session_that_loses_a_node_goes_on(lost: int) -> None:
    turn = LONG + toy_answer(LONG, 6) + "next"

    async def test() -> None:
        async with toy_swarm("0-1", "2-3", "0-1", "2-3") as (service, nodes):
            await answer(service, job(LONG, 6))
            [victim] = [node for node in nodes if node.cache and (node.span.first > 0) == bool(lost)]
            stream = service.generation(TOKENIZER).answer(job(turn, 6))
            deltas = [await anext(stream)]
            await victim.link.close()
            deltas += [delta async for delta in stream]
            assert text(deltas) == toy_answer(turn, 6)
            assert [delta.cached for delta in deltas] == [25, *[0] * (len(deltas) - 1)]

    run(test())


@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize("forgetful", [False, True])
def test_the_next_turn_of_a_chat_of_which_a_node_has_left_is_read_by_its_heir_alone(lost: int, forgetful: bool) -> None:
    """Where the journals do not reach that far, all is read again, and nothing counts as cached."""
    turn = LONG + toy_answer(LONG, 6) + "next"

    async def test() -> None:
        async with toy_swarm("0-0", "1-2", "3-3") as (service, nodes):
            await answer(service, job(LONG, 6))
            await nodes[lost].leave()
            heir = Node(service, nodes[lost].span)
            await until(lambda: not service.swarm.missing())
            for node in nodes:
                node.forgetful = forgetful
                node.steps.clear()
            nodes[lost] = heir
            deltas = await answer(service, job(turn, 3))
            assert text(deltas) == toy_answer(turn, 3)
            replayed = forgetful and lost > 0
            assert cached(deltas) == (0 if replayed else 25)
            assert [node.steps for node in nodes] == [
                [*([] if replayed or node is not heir else [25]), *([30] if replayed else [5]), 1, 1] for node in nodes
            ]
            assert deltas[-1].nodes == tuple(f"toy {node.span}" for node in nodes)
            tokens = service.swarm.tally.tokens
            assert (tokens[TokenKind.CACHED], tokens[TokenKind.PROMPT]) == ((0, 50) if replayed else (25, 25))

    run(test())


def test_what_is_parked_is_mended_as_often_as_nodes_leave() -> None:
    turn = LONG + toy_answer(LONG, 6) + "next"

    async def test() -> None:
        async with toy_swarm("0-0", "1-2", "3-3") as (service, nodes):
            await answer(service, job(LONG, 6))
            for lost in (2, 0):  # of one session, one after the other
                await nodes[lost].leave()
                nodes[lost] = Node(service, nodes[lost].span)
                await until(lambda: not service.swarm.missing())
            deltas = await answer(service, job(turn, 3))
            assert (text(deltas), cached(deltas)) == (toy_answer(turn, 3), 25)
            assert [node.steps for node in nodes] == [[25, 5, 1, 1], [20, 1, 1, 1, 1, 1, 5, 1, 1], [25, 5, 1, 1]]

    run(test())


def test_what_is_parked_is_read_anew_where_nobody_has_the_lost_layers_alone() -> None:
    turn = LONG + toy_answer(LONG, 6) + "next"

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            await answer(service, job(LONG, 6))
            await nodes.pop().leave()
            nodes.append(Node(service, Span(0, 3)))
            await until(lambda: not service.swarm.missing())
            deltas = await answer(service, job(turn, 3))
            assert (text(deltas), cached(deltas)) == (toy_answer(turn, 3), 0)
            assert nodes[1].steps == [30, 1, 1]
            await until(lambda: not nodes[0].cache)  # of the session that was given up

    run(test())


@pytest.mark.parametrize("lost", [0, 1])
def test_a_turn_that_is_cancelled_while_its_session_is_mended_leaves_nothing(lost: int) -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            await answer(service, job(LONG, 6))
            await nodes[lost].leave()
            heir, entered, never = Node(service, nodes[lost].span), asyncio.Event(), asyncio.Event()

            async def hold(_: Step) -> None:
                entered.set()
                await never.wait()

            heir.before = hold
            nodes[lost] = heir
            await until(lambda: not service.swarm.missing())
            task = asyncio.create_task(answer(service, job(LONG + "x", 2)))
            await entered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            never.set()
            heir.before = None
            await until(lambda: all(not node.cache for node in nodes))
            deltas = await answer(service, job(LONG + "x", 2))
            assert (text(deltas), cached(deltas)) == (toy_answer(LONG + "x", 2), 0)

    run(test())


def test_an_interrupted_answer_goes_before_all_that_wait() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3", positions=30) as (service, nodes):
            stream = service.generation(TOKENIZER).answer(job(LONG, 10))
            begun = await anext(stream)
            order: list[str] = []

            async def wait_in_line(name: str) -> None:
                await answer(service, job(LONG[::-1], 10))
                order.append(name)

            tasks = [asyncio.create_task(wait_in_line(name)) for name in ("second", "third")]
            await until(lambda: len(service.queue) == 2)
            failed: list[bool] = []

            async def fail_once(_: Step) -> None:
                nodes[0].failing = not failed
                failed.append(True)

            nodes[0].before = fail_once
            deltas = [begun, *[delta async for delta in stream]]
            order.append("first")
            assert text(deltas) == toy_answer(LONG, 10)
            await asyncio.gather(*tasks)
            assert order == ["first", "second", "third"]
            assert len(failed) > 1

    run(test())


def charges(service: SwarmService, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens that accounts are charged for from now on."""
    charged: list[int] = []
    settle = service.payers.settle

    def note(number: int, tokens: int) -> None:
        charged.append(tokens)
        settle(number, tokens)

    monkeypatch.setattr(service.payers, "settle", note)
    return charged


def test_an_account_is_charged_for_what_was_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for tokens that were not needed, nor for what the nodes held, nor for what they lost."""

    async def test() -> None:
        async with toy_swarm("0-1", "2-3", "0-2", "3") as (service, nodes):
            charged = charges(service, monkeypatch)
            stop = toy_answer(LONG, 6)[4:6]
            await answer(service, job(LONG, 100, stops=(stop,)))
            await answer(service, job(LONG, 3))
            assert charged == [len(LONG) + 5, 3]
            charged.clear()
            stream = service.generation(TOKENIZER).answer(job(LONG[::-1], 6))
            await anext(stream)
            await next(node for node in nodes if node.steps and node.span.first).link.close()
            assert len([delta async for delta in stream]) == 5
            assert (len(charged), sum(charged)) == (2, len(LONG) + 5)

    run(test())


def test_requests_wait_in_the_class_of_their_job() -> None:
    async def test() -> None:
        async with toy_swarm("0-3", positions=30) as (service, _):
            holder = await service.sessions.open(30)
            claim = Claim("anna", Rank.BATCH)
            task = asyncio.create_task(answer(service, job(claim=claim)))
            await until(lambda: len(service.queue) == 1)
            assert [standing.claim for standing in service.queue.standings(service.relay.clock(), 9)] == [claim]
            holder.close()
            assert text(await task) == toy_answer("potluck", 8)

    run(test())


def test_a_node_that_pauses_hands_its_sessions_over_and_stays() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3", "2-3", twin="same") as (service, nodes):
            stream = service.generation(TOKENIZER).answer(job(max_tokens=6))
            deltas = [await anext(stream)]
            [owned] = [node for node in nodes[1:] if node.cache]
            await owned.link.send(encode(Pause(PauseReason.BUSY)))
            await until(lambda: service.swarm.nodes[owned.name].state is NodeState.PAUSED)
            assert service.swarm.nodes[owned.name].reason == "its owner uses the machine"
            assert service.swarm.tally.incidents[Incident.PAUSED] == 1
            deltas += [delta async for delta in stream]
            assert text(deltas) == toy_answer("potluck", 6)
            assert not owned.cache
            assert not owned.released
            await owned.link.send(encode(Resume()))
            await until(lambda: service.swarm.nodes[owned.name].state is NodeState.READY)

    run(test())


def test_what_a_pausing_node_leaves_undone_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    look = Heartbeat.look

    def noted(heartbeat: Heartbeat, now: float, *seen: Any) -> list[Any]:
        looks.append(now)
        return look(heartbeat, now, *seen)

    monkeypatch.setattr(Heartbeat, "look", noted)

    async def test() -> None:
        async with toy_swarm("0-3", positions=2000) as (service, nodes):
            [owned] = nodes
            streams = [service.generation(TOKENIZER).answer(job(max_tokens=6)) for _ in range(7)]
            begun = [await anext(stream) for stream in streams]
            await owned.link.send(encode(Pause(PauseReason.BUSY)))
            await until(lambda: service.swarm.nodes[owned.name].state is NodeState.PAUSED)
            owned.failing = True
            rest = [asyncio.create_task(anext(stream)) for stream in streams]
            await until(lambda: not service.swarm.nodes[owned.name].reserved)
            looks.clear()
            await until(lambda: len(looks) == 2)
            owned.failing = False
            await owned.link.send(encode(Resume()))
            for stream, first, second in zip(streams, begun, rest, strict=True):
                deltas = [first, await second, *[delta async for delta in stream]]
                assert text(deltas) == toy_answer("potluck", 6)
            assert owned.notices == []

    run(test())


def test_an_answer_whose_only_node_pauses_waits_for_it() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            stream = service.generation(TOKENIZER).answer(job(max_tokens=6))
            deltas = [await anext(stream)]
            await nodes[1].link.send(encode(Pause(PauseReason.OWNER)))
            await until(lambda: service.swarm.nodes[nodes[1].name].state is NodeState.PAUSED)
            nodes[1].failing = True  # as a node does within a second
            rest = asyncio.create_task(anext(stream))
            await until(lambda: nodes[1].closed.is_set())
            assert service.swarm.missing() == [Span(2, 3)]
            nodes[1].failing = False
            await nodes[1].link.send(encode(Resume()))
            deltas += [await rest, *[delta async for delta in stream]]
            assert text(deltas) == toy_answer("potluck", 6)

    run(test())
