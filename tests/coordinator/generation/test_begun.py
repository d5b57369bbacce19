"""Answers that were begun elsewhere: what is given comes again, and the rest is that of the unbroken answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kit.runner import run
from kit.toy_swarm import END, LETTERS, FewLetters, Rhyme, answer, job, text, toy_answer, toy_swarm
from potluck.coordinator.generation.guesses import Guessed
from potluck.coordinator.generation.job import Delta, Job
from potluck.coordinator.generation.sampling import SamplingParams
from potluck.coordinator.sessions.claim import Claim

WARM = SamplingParams(temperature=3.0, seed=7)


def watch() -> Callable[[str], bool]:
    told: list[str] = []

    def is_over(text: str) -> bool:
        told.append(text)
        return len("".join(told)) > 6

    return is_over


def plain(deltas: list[Delta]) -> list[Delta]:
    """What a client is told, without how it came about."""
    return [replace(delta, cached=0, session=None, nodes=(), guessed=Guessed()) for delta in deltas]


def tokens_of(deltas: list[Delta]) -> tuple[int, ...]:
    return tuple(delta.tokens[0].token for delta in deltas if delta.generated)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"params": WARM},
        {"params": SamplingParams(temperature=3.0, top_k=5, top_p=0.8, min_p=0.05, seed=11)},
        {"params": SamplingParams(temperature=2.0, seed=3, frequency_penalty=1.0, presence_penalty=-1.0)},
        {"params": SamplingParams(temperature=2.0, seed=3, repetition_penalty=0.7, logit_bias={2: 9.0, END: -100.0})},
        {"params": WARM, "logprobs": 3},
        {"logprobs": 0, "echo": True},
        {"params": WARM, "logprobs": 2, "echo": True},
        {"params": WARM, "echo": True},
        {"params": WARM, "grammar": FewLetters()},
        {"params": WARM, "grammar": Rhyme(), "logprobs": 2, "max_tokens": 20},
        {"grammar": Rhyme(), "prediction": (1, 2, 3)},
        {"params": WARM, "min_tokens": 9},
        {"params": WARM, "stops": ("zzz", "e", "x")},
        {"params": WARM, "watch": watch},
        {"params": WARM, "ignore_eos": True, "stop_ids": frozenset({4, 5})},
        {"max_tokens": 1, "logprobs": 1},
        {"max_tokens": 0, "logprobs": 1, "echo": True},
        {"params": WARM, "max_tokens": 90, "ignore_eos": True, "logprobs": 1},
        {"params": WARM, "max_tokens": 90, "ignore_eos": True},
    ],
)
def test_what_follows_is_the_rest_of_the_unbroken_answer(options: dict[str, Any]) -> None:
    params = options.pop("params", SamplingParams(temperature=0))
    one = replace(job(max_tokens=options.pop("max_tokens", 12)), params=params, **options)

    async def test() -> None:
        async with toy_swarm("0-1", "2-3") as (service, _):
            whole = await answer(service, one)
            tokens = tokens_of(whole)
            for count in {*range(min(14, len(tokens)) + 1), len(tokens) - 1, len(tokens)} - {-1}:
                again = await answer(service, replace(one, given=tokens[:count]))
                assert plain(again) == plain(whole), count
        async with toy_swarm("0-3") as (service, _):  # whose nodes hold nothing of it
            again = await answer(service, replace(one, given=tokens[: len(tokens) // 2]))
            assert plain(again) == plain(whole)

    run(test())


def test_what_is_given_is_read_together() -> None:
    async def test() -> None:
        one = job(max_tokens=200, ignore_eos=True)
        async with toy_swarm("0-3") as (service, _):
            tokens = tokens_of(await answer(service, one))
        async with toy_swarm("0-3") as (service, [node]):
            await answer(service, replace(one, given=tokens[:150]))
            assert node.steps == [64, 64, 29, *[1] * 49]

    run(test())


def test_an_answer_that_is_given_whole_needs_no_nodes() -> None:
    prompt = next(a + b for a in LETTERS for b in LETTERS if len(toy_answer(a + b, 20)) == 4)

    async def test() -> None:
        async with toy_swarm("0-3") as (service, _):
            whole = await answer(service, job(prompt, 20))
        async with toy_swarm() as (service, _):
            again = await answer(service, job(prompt, 20, given=(*tokens_of(whole), 5)))
            assert text(again) == toy_answer(prompt, 20)
            assert plain(again) == plain(whole)

    run(test())


@pytest.mark.parametrize(("given", "paid"), [(0, 7 + 11), (5, 6), (11, 0), (12, 0)])
def test_what_was_computed_elsewhere_is_paid_for_there(given: int, paid: int) -> None:
    """The last token is never computed."""

    async def test() -> None:
        one = job(max_tokens=12, ignore_eos=True, claim=Claim("ann"))
        async with toy_swarm("0-3") as (service, _):
            tokens = tokens_of(await answer(service, one))
        async with toy_swarm("0-3") as (service, _):
            service.ledger.earn(b"key", "ann", 10_000)
            service.ledger.settle(b"key")
            await answer(service, replace(one, given=tokens[:given]))
            assert service.ledger.account("ann").spent == paid * 4

    run(test())


def test_jobs_give_nothing_unless_they_say_so() -> None:
    assert Job(prompt=[1], params=WARM, max_tokens=1).given == ()
