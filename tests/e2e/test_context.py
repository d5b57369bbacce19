"""Sessions that are longer than usual, up to the model's own context, on nodes that can hold no more than one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from kit.processes import LOCAL, ONE_THREAD
from kit.tiny_gguf import EXACT, write_tiny_gguf
from kit.unsplit import Unsplit, memory_for
from potluck.local import LocalSwarm
from potluck.types import Span

CONTEXT = 6000
SPANS = (Span(0, 1), Span(2, 3))


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "long.gguf"
    return write_tiny_gguf(path, layers=4, tokenizer="bpe", context=CONTEXT, dtype=EXACT)


@pytest.fixture(scope="module")
def long_swarm(long_model: Path) -> Iterator[LocalSwarm]:
    """The model on nodes that have the memory for one session of all positions, and not for one more."""
    with LocalSwarm(long_model, [], serve=[*LOCAL, "--context", str(CONTEXT)], join=ONE_THREAD) as swarm:
        for span in SPANS:
            memory = -(-memory_for(long_model, span, CONTEXT) >> 20)
            swarm.add_node(str(span), "--memory", f"{memory}M")
        swarm.wait_covered()
        yield swarm


def test_a_prompt_beyond_the_usual_context_is_answered_as_the_unsplit_model_does(
    long_swarm, long_model, client_of, alice
):
    unsplit = Unsplit(long_model, CONTEXT)
    try:
        text = unsplit.encode(alice)
        prompt, client = text[: CONTEXT - 100], client_of(long_swarm)
        for turn, held in ((prompt, 0), ([*prompt, *text[20:70]], len(prompt))):
            reply = client.completions.create(model="long", prompt=turn, max_tokens=1, temperature=0, logprobs=0)
            assert reply.usage.prompt_tokens_details.cached_tokens == held
            [token] = unsplit_greedy(unsplit, turn)
            assert reply.choices[0].logprobs.token_logprobs == [unsplit.score([*turn, token])[-1]]
    finally:
        unsplit.close()


def unsplit_greedy(unsplit: Unsplit, prompt: list[int]) -> list[int]:
    """The likeliest next token, for a prompt of any length."""
    unsplit.score(prompt[:-1])
    [logits] = unsplit._feed(len(prompt) - 1, prompt[-1:])
    return [int(logits.argmax())]


def test_the_context_that_is_asked_for_is_told_and_holds(long_swarm, client_of):
    assert long_swarm.status()["context"] == CONTEXT
    with pytest.raises(openai.BadRequestError, match=f"more than the context of {CONTEXT} leaves room for") as raised:
        client_of(long_swarm).completions.create(model="long", prompt=[1] * CONTEXT, max_tokens=1)
    assert raised.value.code == "context_length_exceeded"
    reply = client_of(long_swarm).completions.create(model="long", prompt=[1] * (CONTEXT - 1), max_tokens=1)
    assert reply.usage.total_tokens == CONTEXT


def test_a_node_that_cannot_hold_one_session_is_told_how_much_it_takes(long_swarm, long_model):
    less = memory_for(long_model, Span(0, 0)) >> 20
    node = long_swarm.add_node("--memory", f"{less}M")
    assert node.wait()
    assert any("needs" in line and "MiB of memory" in line for line in node.lines), node.lines


def test_more_context_than_the_model_has_is_not_given_silently(long_model):
    with LocalSwarm(long_model, [], serve=[*LOCAL, "--context", str(CONTEXT + 1)]) as swarm:
        assert swarm.status()["context"] == CONTEXT
        swarm.coordinator.wait_for(f"The context of long is {CONTEXT} tokens, so sessions have no more than these.")
