"""Thinking and prefill by the official client, against models that are taught to think, on real nodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from kit.processes import LOCAL, ONE_THREAD
from kit.tiny_gguf import CHAT_TEMPLATE, EXACT, bpe_tokens, write_tiny_gguf
from potluck.local import LocalSwarm
from potluck.types import even_spans

QUESTION: Any = {"role": "user", "content": "What is the capital of France?"}
PREFILL: Any = {"role": "assistant", "content": "The capital of France is"}
OPENS = CHAT_TEMPLATE.replace("<|im_end|>", "<|turn|>").replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
CONTROLS = ("<think>", "</think>", "<|turn|>")
CLOSE, TURN = (str(len(bpe_tokens()) + CONTROLS.index(name)) for name in ("</think>", "<|turn|>"))
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": {**CITY, "additionalProperties": False}}}

Ask = Callable[..., tuple[Any, Any]]


def asking(client: openai.OpenAI) -> Ask:
    """Returns the choice and the usage of an answer, which is the same streamed."""
    model = client.models.list().data[0].id

    def ask(**fields: Any) -> tuple[Any, Any]:
        options: dict[str, Any] = {"model": model, "messages": [QUESTION], "temperature": 0, "max_tokens": 12, **fields}
        whole = client.chat.completions.create(**options)
        chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
        [choice] = whole.choices
        told = [one for chunk in chunks for one in chunk.choices]
        thought = "".join(getattr(one.delta, "reasoning_content", None) or "" for one in told)
        assert thought == getattr(choice.message, "reasoning_content", "")
        assert "".join(one.delta.content or "" for one in told) == (choice.message.content or "")
        assert told[-1].finish_reason == choice.finish_reason
        assert chunks[-1].usage.completion_tokens_details == whole.usage.completion_tokens_details
        return choice, whole.usage

    return ask


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSwarm]:
    """A random model whose template opens the thinking."""
    path = tmp_path_factory.mktemp("thinker") / "thinker.gguf"
    write_tiny_gguf(path, tokenizer="bpe", context=1024, dtype=EXACT, template=OPENS, controls=CONTROLS)
    with LocalSwarm(path, even_spans(6, 2), serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        yield swarm


@pytest.fixture
def ask(thinker: LocalSwarm, client_of: Callable[[LocalSwarm], openai.OpenAI]) -> Ask:
    return asking(client_of(thinker))


def test_an_answer_that_ends_while_the_model_thinks(ask: Ask) -> None:
    choice, usage = ask(logit_bias={CLOSE: -100, TURN: -100})
    assert choice.message.content is None
    assert choice.message.reasoning_content
    assert choice.finish_reason == "length"
    assert usage.completion_tokens_details.reasoning_tokens == usage.completion_tokens == 12


def test_what_follows_the_mark_is_the_answer(ask: Ask) -> None:
    tokens = {"logprobs": True, "logit_bias": {CLOSE: 4, TURN: -100}, "temperature": 1, "max_tokens": 60}
    closed = 0
    for seed in range(4):
        choice, usage = ask(**tokens, seed=seed)
        said = b"".join(bytes(one.bytes) for one in choice.logprobs.content).decode("utf-8", "replace")
        thought, mark, text = said.partition("</think>")
        closed += bool(mark)
        if "<think>" not in said and "</think>" not in text:
            assert getattr(choice.message, "reasoning_content", "") == thought.strip()
            assert (choice.message.content or "") == text.lstrip()
        assert 0 < usage.completion_tokens_details.reasoning_tokens <= usage.completion_tokens
    assert closed


def test_a_prescribed_form_is_in_the_content(ask: Ask) -> None:
    choice, usage = ask(response_format=FORM, logit_bias={CLOSE: 100, TURN: -100}, max_tokens=100)
    assert json.loads(choice.message.content)["city"] in ("Paris", "Rome")
    assert choice.finish_reason == "stop"
    assert usage.completion_tokens_details.reasoning_tokens == 1


def test_the_end_of_a_turn_in_the_template_ends_the_answer(ask: Ask) -> None:
    choice, usage = ask(logit_bias={TURN: 100})
    assert (choice.finish_reason, choice.message.content, usage.completion_tokens) == ("stop", "", 1)
    choice, usage = ask(logit_bias={TURN: 100}, extra_body={"ignore_eos": True})
    assert (choice.finish_reason, usage.completion_tokens) == ("length", 12)


def test_thinking_is_continued(ask: Ask, thinker: LocalSwarm, client_of: Callable[[LocalSwarm], openai.OpenAI]) -> None:
    client, bias = client_of(thinker), {CLOSE: -100, TURN: -100}
    model = client.models.list().data[0].id
    prompt = f"<|im_start|>user\n{QUESTION['content']}<|turn|>\n<|im_start|>assistant\n<think>\nI mu"
    expected = client.completions.create(model=model, prompt=prompt, temperature=0, max_tokens=12, logit_bias=bias)
    last = {"role": "assistant", "content": "<think>\nI mu"}
    choice, _ = ask(messages=[QUESTION, last], logit_bias=bias)
    assert choice.message.reasoning_content == expected.choices[0].text.rstrip()
    assert choice.message.content is None


def test_a_model_that_writes_the_marks_itself(
    tiny_swarm: LocalSwarm, client_of: Callable[[LocalSwarm], openai.OpenAI]
) -> None:
    """Its words are prescribed, because a random model would never say them."""
    grammar = 'start: "<think>\\nI muse\\n</think>\\n\\nAnswer"'
    choice, usage = asking(client_of(tiny_swarm))(extra_body={"grammar": grammar}, max_tokens=100)
    assert (choice.message.reasoning_content, choice.message.content) == ("I muse", "Answer")
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"continue_final_message": True},
        {"add_generation_prompt": False},
        {"continue_final_message": True, "add_generation_prompt": False},
    ],
)
@pytest.mark.parametrize("said", ["The capital of France is", "Paris \n"])
def test_a_prefill_is_the_completion_of_the_same_text(
    client: openai.OpenAI, name: str, fields: dict[str, Any], said: str
) -> None:
    """SmolLM2's template begins with a system message of its own unless there is one."""
    messages = [{"role": "system", "content": "Be brief."}, QUESTION, {**PREFILL, "content": said}]
    turns = f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{QUESTION['content']}<|im_end|>\n"
    options: dict[str, Any] = {"model": name, "temperature": 0, "max_tokens": 12}
    expected = client.completions.create(prompt=f"{turns}<|im_start|>assistant\n{said}", **options).choices[0]
    choice, usage = asking(client)(messages=messages, extra_body=fields)
    assert (choice.message.content, choice.finish_reason) == (expected.text, expected.finish_reason)
    assert usage.completion_tokens_details.reasoning_tokens == 0


def test_a_new_turn_can_be_demanded(client: openai.OpenAI, name: str) -> None:
    messages = [QUESTION, PREFILL]
    anew: Any = client.chat.completions.create(
        model=name, messages=messages, temperature=0, max_tokens=8, extra_body={"add_generation_prompt": True}
    )
    continued: Any = client.chat.completions.create(model=name, messages=messages, temperature=0, max_tokens=8)
    assert anew.usage.prompt_tokens > continued.usage.prompt_tokens
    assert continued.choices[0].message.content.startswith(" Paris")


def test_both_at_once_are_refused(client: openai.OpenAI, name: str) -> None:
    both = {"continue_final_message": True, "add_generation_prompt": True}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=name, messages=[QUESTION, PREFILL], extra_body=both)
    assert caught.value.param == "continue_final_message"
