"""Many requests at once, scores of whole texts, and clients that go away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest

from kit.processes import LOCAL, ONE_THREAD
from potluck.local import HANG_S, LocalSwarm
from potluck.types import Span, even_spans

PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "def fibonacci(n):",
    "To bake bread you need flour,",
    "Roses are red,",
    "In the year 1969 two men",
    "A potluck dinner is",
    "Nodes, layers and spans: " * 8,
)
LONG = 4000
"""Tokens: minutes of SmolLM2."""


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 0.9, "top_p": 0.95, "seed": 5}])
def test_eight_requests_at_once_each_get_the_answer_that_they_get_alone(client, name, options):
    def answer(prompt: str) -> tuple[str, list[str], list[float], list[dict[str, float]]]:
        reply = client.completions.create(model=name, prompt=prompt, max_tokens=12, logprobs=3, **options).choices[0]
        return reply.text, reply.logprobs.tokens, reply.logprobs.token_logprobs, reply.logprobs.top_logprobs

    alone = [answer(prompt) for prompt in PROMPTS]
    with ThreadPoolExecutor(len(PROMPTS)) as threads:
        together = list(threads.map(answer, PROMPTS))
    assert together == alone
    assert len({text for text, *_ in alone}) == len(PROMPTS)


def test_an_answer_that_outlives_another_is_the_answer_that_it_is_alone(client, name):
    """The other's KV cells are free again in the middle of it; the answer's own must stay in their order."""
    options = {"model": name, "temperature": 0, "stream": True, "extra_body": {"ignore_eos": True}}

    def begin(prompt: str, tokens: int):
        return client.completions.create(prompt=prompt, max_tokens=tokens, logprobs=0, **options)

    def logprobs(chunks) -> list[float]:
        return [logprob for chunk in chunks for logprob in chunk.choices[0].logprobs.token_logprobs]

    alone = logprobs(begin(PROMPTS[6], 60))
    with begin(PROMPTS[7], LONG) as other:
        next(other)
        answer = begin(PROMPTS[6], 60)
        head = logprobs(next(answer) for _ in range(10))
    assert head + logprobs(answer) == alone


def scores(client, model: str, prompt: str | list[int], logprobs: int) -> list[Any]:
    """None for the first token of a text, which nothing comes before; a number for each other."""
    reply = client.completions.create(model=model, prompt=prompt, max_tokens=0, echo=True, logprobs=logprobs)
    assert reply.usage.completion_tokens == 0
    return reply.choices[0].logprobs.token_logprobs


@pytest.mark.parametrize("logprobs", [0, 1])
def test_a_text_has_the_log_probabilities_that_the_unsplit_model_gives_it(client, name, unsplit, alice, logprobs):
    tokens = unsplit.encode(alice)[:220]
    assert scores(client, name, tokens, logprobs) == [None, *unsplit.score(tokens)]


@pytest.fixture(scope="module")
def whole(tiny) -> Iterator[LocalSwarm]:
    """The tiny model on one node."""
    with LocalSwarm(tiny, [Span(0, 5)], serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        yield swarm


@pytest.fixture(scope="module", params=["f16", "q8"])
def rounding(request, tiny) -> Iterator[LocalSwarm]:
    """The tiny model on two nodes, over rounded rows."""
    with LocalSwarm(tiny, even_spans(6, 2), serve=[*LOCAL, "--rows", request.param], join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        yield swarm


def test_one_node_and_three_nodes_give_equal_log_probabilities(tiny_swarm, whole, client_of, alice):
    text = alice[:600]
    three, one = (scores(client_of(swarm), "tiny", text, 1) for swarm in (tiny_swarm, whole))
    assert len(one) > 200
    assert three == one


def test_rounded_rows_give_nearly_equal_log_probabilities_and_always_the_same(rounding, whole, client_of, alice):
    rounded, again, exact = (
        scores(client_of(swarm), "tiny", alice[:600], 0)[1:] for swarm in (rounding, rounding, whole)
    )
    assert rounded == again
    assert rounded != exact
    assert sum(rounded) == pytest.approx(sum(exact), rel=0.02)


def sessions(swarm: LocalSwarm) -> list[int]:
    return [node["sessions"] for node in swarm.status()["nodes"]]


@pytest.fixture
def endless(smol, name) -> Iterator[dict[str, object]]:
    """A request for so long an answer that it is not over when its client goes away. Nobody writes on for nobody."""
    before = smol.status()["tokens"]
    yield {"model": name, "prompt": "Once", "max_tokens": LONG, "ignore_eos": True}
    assert smol.status()["tokens"] - before < LONG


def test_a_client_that_goes_away_leaves_nothing_behind(smol, client, name, endless):
    """Eight answers hold all KV cells of every node; once their clients are gone, eight others fit at once."""
    body = {**endless, "stream": True}
    with ExitStack() as streams, httpx.Client(timeout=HANG_S) as http:
        replies = [
            streams.enter_context(http.stream("POST", f"{smol.url}/v1/completions", json=body)) for _ in range(8)
        ]
        lines = [reply.iter_lines() for reply in replies]
        assert all(next(each).startswith("data: {") for each in lines)
        assert sessions(smol) == [8, 8, 8]
    smol.wait_until(lambda _: sessions(smol) == [0, 0, 0])
    answers = client.completions.create(model=name, prompt="Once upon a", max_tokens=LONG, n=8, stop=[" "])
    assert len(answers.choices) == 8


def test_a_client_that_does_not_wait_for_a_whole_answer_ends_it(smol, endless):
    with closing(HTTPConnection(smol.url.removeprefix("http://"))) as impatient:
        impatient.request("POST", "/v1/completions", json.dumps(endless))
        smol.wait_until(lambda _: sessions(smol) == [1, 1, 1])
    smol.wait_until(lambda _: sessions(smol) == [0, 0, 0])
