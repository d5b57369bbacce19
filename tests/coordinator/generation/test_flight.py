"""Answers with guesses ahead, on the toy swarm: the same as without, whatever is guessed and whoever leaves."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from kit.runner import run
from kit.toy_swarm import (
    END,
    LETTERS,
    TOKENIZER,
    VOCABULARY,
    FewLetters,
    Rhyme,
    fits,
    job,
    lengths,
    promised,
    text,
    toy_answer,
    toy_logits,
    toy_swarm,
)
from kit.waiting import until
from potluck.coordinator.compose import SwarmService
from potluck.coordinator.generation import flight, outlook
from potluck.coordinator.generation.generation import Generation
from potluck.coordinator.generation.job import Delta, Job
from potluck.coordinator.swarm.tally import Incident, Outcome, Source
from potluck.planning.guessing import Pass, Trial
from potluck.types import NodeState
from potluck.wire.codec import encode
from potluck.wire.messages import Leaving, Step

DEEP = 16


@pytest.fixture(autouse=True)
def bold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses always pay."""
    monkeypatch.setattr(flight, "most_ahead", lambda share, now: DEEP)
    monkeypatch.setattr(Pass, "room", DEEP + 1)
    monkeypatch.setattr(Trial, "is_on", True)


class Knowing:
    """A small model that knows the toy model, and errs by a seed."""

    is_here = True

    def __init__(self, right: float, seed: int, slow: bool = False, wrong_end: bool = False) -> None:
        self.closed = 0
        self._right = right
        self._random = random.Random(seed)
        self._slow = slow
        self._wrong_end = wrong_end

    def open(self) -> "Knowing":
        return self

    async def guess(self, tokens: Sequence[int], ahead: int) -> int | None:
        if self._slow:
            for _ in range(self._random.randrange(12)):
                await asyncio.sleep(0)
        if self._random.random() < self._right:
            token = int(toy_logits(list(tokens)).argmax())
            return 0 if self._wrong_end and token == END else token
        return self._random.choice([None, *range(VOCABULARY)])

    def close(self) -> None:
        self.closed += 1


async def answer(service: SwarmService, one: Job, model: Knowing | None = None) -> list[Delta]:
    generation = replace(service.generation(TOKENIZER), guesser=model)
    return [delta async for delta in generation.answer(one)]


def bare(deltas: list[Delta]) -> list[Any]:
    return [(delta.text, delta.tokens, delta.finish, delta.stopped, delta.generated) for delta in deltas]


KINDS: list[dict[str, Any]] = [
    {},
    {"params": {"temperature": 1.0, "seed": 7}, "logprobs": 3},
    {"params": {"temperature": 0.7, "seed": 1, "top_k": 5, "frequency_penalty": -0.5}},
    {"params": {"repetition_penalty": 0.8, "logit_bias": {3: 4.0, 5: -2.0}}, "logprobs": 1},
    {"min_tokens": 12, "stops": ("ab", "q")},
    {"stops": ("c",)},
    {"stop_ids": frozenset({4, 9})},
    {"grammar": FewLetters()},
    {"grammar": Rhyme()},
    {"grammar": Rhyme(), "params": {"temperature": 1.0, "seed": 3, "presence_penalty": -1.0}},
    {"grammar": FewLetters(), "params": {"temperature": 1.0, "seed": 3}, "logprobs": 2},
]


@pytest.mark.parametrize("few", [256, 0])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(LETTERS, min_size=1, max_size=30),
    st.integers(1, 40),
    st.sampled_from(KINDS),
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    st.integers(0, 1000),
    st.booleans(),
    st.text(LETTERS, max_size=20),
)
def test_an_answer_is_the_same_with_any_guesses(
    few: int, prompt: str, length: int, kind: dict[str, Any], right: float, seed: int, slow: bool, predicted: str
) -> None:
    params = dict(kind.get("params", {}))
    one = replace(job(prompt, length), **{name: value for name, value in kind.items() if name != "params"})
    one = replace(one, params=structs.replace(one.params, **params))

    async def test() -> None:
        async with toy_swarm("0-1", "2", "3") as (service, _):
            plain = await answer(service, one)
            prediction = tuple(TOKENIZER.encode(predicted, special=True, bos=True))
            model = Knowing(right, seed, slow)
            guessed = await answer(service, replace(one, prediction=prediction), model)
            assert bare(guessed) == bare(plain)
            assert model.closed == 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlook, "_FEW", few)  # with 0, rows are asked for again
        patch.setattr(outlook, "MAX_CANDIDATES", 3)
        run(test())


def test_right_guesses_are_not_fed_again() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            prompt = next(a + b for a in LETTERS for b in LETTERS if len(toy_answer(a + b, 24)) == 24)
            deltas = await answer(service, job(prompt, 24), Knowing(1.0, 0))
            assert text(deltas) == toy_answer(prompt, 24)
            guessed = deltas[-1].guessed
            assert guessed.of(Outcome.RIGHT) > 15
            assert guessed.of(Outcome.WRONG, Outcome.VOID) == 0
            assert sum(nodes[0].steps) == len(prompt) + 23, "each position was computed once"
            assert service.swarm.tally.guesses[Source.MODEL, Outcome.RIGHT] == guessed.of(Outcome.RIGHT)

    run(test())


def test_the_small_model_reads_the_next_prompt_while_the_nodes_do() -> None:
    class Reading(Knowing):
        heard: list[list[int]] = []

        async def guess(self, tokens: Sequence[int], ahead: int) -> int | None:
            self.heard.append(list(tokens))
            return await super().guess(tokens, ahead)

    prompt = TOKENIZER.encode("abc", special=True, bos=True)

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, _):
            generation, model = service.generation(TOKENIZER), Reading(1.0, 0)
            generation = replace(generation, guesser=model)
            for _ in range(2):
                model.heard = []
                assert text([delta async for delta in generation.answer(job("abc", 9))]) == toy_answer("abc", 9)
            assert model.heard[0] == prompt
            model.heard = []
            assert text([delta async for delta in generation.answer(job("abc", 1))]) == toy_answer("abc", 1)
            assert model.heard == []

    run(test())


def test_a_prediction_is_followed_and_found_again_after_a_change() -> None:
    prompt = next(a + b for a in LETTERS for b in LETTERS if len(toy_answer(a + b, 30)) == 30)
    whole = toy_answer(prompt, 30)
    changed = whole[:10] + "zzz" + whole[10:]

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, _):
            told = tuple(TOKENIZER.encode(changed, special=True, bos=True))
            deltas = await answer(service, job(prompt, 30, prediction=told))
            assert text(deltas) == whole
            assert deltas[-1].guessed.of(Outcome.RIGHT, source=Source.PREDICTION) > 15

    run(test())


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("right", [0.3, 1.0])
def test_a_node_that_dies_with_guesses_under_way_is_replaced(victim: int, right: float) -> None:
    prompt = next(a + b for a in LETTERS for b in LETTERS if len(toy_answer(a + b, 30)) == 30)

    async def test() -> None:
        async with toy_swarm("0-1", "2", "3", "0-1", "2", "3") as (service, nodes):
            for node in nodes:
                if node.span == nodes[victim].span:
                    node.before = node.die_with(9)
                    break
            deltas = await answer(service, job(prompt, 30), Knowing(right, 3))
            assert text(deltas) == toy_answer(prompt, 30)
            assert service.swarm.tally.incidents[Incident.LOST] == 1

    run(test())


def test_a_client_that_leaves_while_guesses_are_under_way_loses_no_prefix() -> None:
    prompt = next(a * 20 + b for a in LETTERS for b in LETTERS if len(toy_answer(a * 20 + b, 30)) == 30)

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, _):
            generation = replace(service.generation(TOKENIZER), guesser=Knowing(0.5, 4))
            stream = generation.answer(job(prompt, 30))
            for _ in range(8):
                await anext(stream)
            await stream.aclose()
            turn = prompt + toy_answer(prompt, 7)
            again = await answer(service, job(turn + "x", 5), Knowing(0.5, 5))
            assert max(delta.cached for delta in again) >= len(turn) - 1
            assert text(again) == toy_answer(turn + "x", 5)

    run(test())


def guessing(service: SwarmService, model: Knowing) -> Generation:
    return replace(service.generation(TOKENIZER), guesser=model)


def long_answer(length: int, prompt: int) -> str:
    """A prompt of about this length with an answer of this length."""
    return next(a * prompt + b for a in LETTERS for b in LETTERS if len(toy_answer(a * prompt + b, length)) == length)


def forgetting(service: SwarmService, most: int) -> SwarmService:
    """The service of a model that can surely forget so many positions."""
    service.swarm.forgets = most
    service.sessions._admission._prefix_cache._forgets = most
    return service


@pytest.mark.parametrize("kind", [FewLetters, Rhyme])
def test_no_more_is_forgotten_at_once_than_the_model_can(kind: type[FewLetters]) -> None:
    """Even where a row is asked for again with a guess behind it."""
    forgotten = [0]

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            forgetting(service, 1)
            for node in nodes:

                async def note(step: Step, cache: dict[int, list[int]] = node.cache) -> None:
                    if step.position:
                        forgotten.append(len(cache.get(step.session, [])) - step.position)

                node.before = note
            for seed in range(5):
                for prompt in ("abcdefghij", "kkz"):
                    await answer(service, job(prompt, 30, grammar=kind()), Knowing(0.9, seed))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlook, "_FEW", 0)
        patch.setattr(outlook, "MAX_CANDIDATES", 1)
        run(test())
    assert max(forgotten) <= 1


def test_a_wrong_guess_at_the_end_costs_no_prefix_where_it_can_be_forgotten() -> None:
    prompt = next(a * 30 + b for a in LETTERS for b in LETTERS if 3 < len(toy_answer(a * 30 + b, 50)) < 40)

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, _):
            forgetting(service, 1)
            first = await answer(service, job(prompt, 60), Knowing(1.0, 1, wrong_end=True))
            turn = prompt + text(first)
            again = await answer(service, job(turn + "xyz", 5))
            assert max(delta.cached for delta in again) == len(turn)

    run(test())


def test_a_session_that_is_taken_over_has_room_for_all_that_its_nodes_hold() -> None:
    prompt = long_answer(40, 30)

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            stream = guessing(service, Knowing(1.0, 1)).answer(job(prompt, 40))
            for _ in range(3):
                await anext(stream)
            for _ in range(500):
                await asyncio.sleep(0)
            await stream.aclose()
            assert any(len(held) > len(prompt) + 3 for node in nodes for held in node.cache.values())
            begun, go_on = asyncio.Event(), asyncio.Event()

            async def hold(_: Step) -> None:
                begun.set()
                await go_on.wait()

            nodes[0].before = hold
            task = asyncio.create_task(answer(service, job(prompt[:30], 1)))
            await begun.wait()
            assert all(fits(lengths(node), promised(service, node)) for node in nodes)
            go_on.set()
            await task

    run(test())


def test_a_prompt_that_is_broken_off_is_not_computed_to_its_end() -> None:
    async def test() -> None:
        async with toy_swarm("0-1", "2-3", positions=4000) as (service, nodes):
            entered, go_on = asyncio.Event(), asyncio.Event()

            async def hold(_: Step) -> None:
                if len(nodes[0].steps) == 2:
                    entered.set()
                    await go_on.wait()

            nodes[0].before = hold
            task = asyncio.create_task(answer(service, job("ab" * 400, 5)))
            await entered.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert promised(service, nodes[0]) == {}
            go_on.set()
            await nodes[0].closed.wait()

    run(test())


def test_a_node_that_leaves_without_an_heir_computes_no_guess_twice() -> None:
    prompt = long_answer(40, 30)

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, nodes):
            seen = 0
            async for _ in guessing(service, Knowing(1.0, 4)).answer(job(prompt, 40)):
                seen += 1
                if seen == 3:
                    await nodes[1].link.send(encode(Leaving()))
                    await until(lambda: service.swarm.nodes[nodes[1].name].state is NodeState.LEAVING)
            assert sum(nodes[1].steps) <= len(prompt) + 39 + DEEP

    run(test())
