"""The official OpenAI client, unchanged, against SmolLM2 on three nodes."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from kit.unsplit import Unsplit
from potluck.coordinator.text.template import ChatTemplate
from potluck.local import HANG_S

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SHORT = [{"role": "user", "content": "Hi"}]
"""A question whose answer the model soon ends."""
STORY = "Once upon a time"
TOKENS = 16


@pytest.fixture
def chat(client, name):
    return lambda **options: client.chat.completions.create(
        **{"model": name, "messages": QUESTION, "max_tokens": TOKENS, "temperature": 0} | options
    )


@pytest.fixture
def complete(client, name):
    return lambda **options: client.completions.create(
        **{"model": name, "prompt": STORY, "max_tokens": TOKENS, "temperature": 0} | options
    )


@pytest.fixture(scope="module")
def prompt(unsplit):
    """The question's tokens, as the model's template has them."""
    tokenizer = unsplit.tokenizer
    template = ChatTemplate(tokenizer.chat_template, tokenizer.bos, tokenizer.eos)
    return unsplit.encode(template.render(QUESTION))


def joined(chunks):
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_the_model_is_listed(client, name):
    assert [model.id for model in client.models.list()] == [name]
    assert client.models.retrieve(name).id == name
    assert "SmolLM2" in name
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_a_greedy_chat_is_the_unsplit_models(chat, unsplit, prompt):
    answer = chat()
    expected = unsplit.greedy(prompt, TOKENS)
    [choice] = answer.choices
    assert choice.message.content == unsplit.text(prompt, TOKENS)
    assert choice.message.role == "assistant"
    assert choice.finish_reason == ("length" if len(expected) == TOKENS else "stop")
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_greedy_completion_is_the_unsplit_models(complete, unsplit):
    answer = complete()
    assert answer.choices[0].text == unsplit.text(unsplit.encode(STORY), TOKENS)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == TOKENS
    assert answer.choices[0].text == complete(prompt=unsplit.encode(STORY)).choices[0].text


def test_a_streamed_chat_is_the_same_text(chat):
    whole = chat()
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    assert joined(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == whole.choices[0].finish_reason
    *others, usage = [chunk.usage for chunk in chunks]
    assert others == [None] * (len(chunks) - 1)
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1  # it was asked before
    assert usage.nodes == whole.usage.nodes
    assert len(usage.nodes) == 3
    assert chunks[-1].sessions == whole.sessions  # parked, and taken over
    assert not chunks[-1].choices
    assert len(chunks) > 6


LONG = [{"role": "user", "content": f"What is the capital of France, again? {'Again, please. ' * 240}"}]


def test_how_far_a_long_prompt_is_read(chat):
    options = {"messages": LONG, "stream": True, "stream_options": {"include_usage": True}}
    chunks = list(chat(**options, extra_body={"return_progress": True}))
    told = [chunk.prompt_progress for chunk in chunks if hasattr(chunk, "prompt_progress")]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.prompt_progress for chunk in chunks[1 : len(told) + 1]] == told  # before any text
    done = [progress["processed"] for progress in told]
    assert done[0] == told[0]["cache"]
    assert done == sorted(set(done))
    assert len(done) > 3
    assert {progress["total"] for progress in told} == {done[-1]} == {chunks[-1].usage.prompt_tokens}
    assert joined(chunks) == chat(messages=LONG).choices[0].message.content
    assert not any(hasattr(chunk, "prompt_progress") for chunk in chat(**options))


def test_a_streamed_completion_is_the_same_text(complete):
    chunks = list(complete(stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == complete().choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)


def test_the_stream_is_server_sent_events_and_ends_with_done(smol, name):
    body = {"model": name, "prompt": STORY, "max_tokens": 3, "stream": True}
    reply = httpx.post(f"{smol.url}/v1/completions", json=body, timeout=HANG_S)
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = reply.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert {json.loads(event.removeprefix("data: "))["object"] for event in events} == {"text_completion"}


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_length_is_bounded_by_either_field(client, name, field):
    answer = client.chat.completions.create(
        model=name, messages=QUESTION, extra_body={"ignore_eos": True}, **{field: 5}
    )
    assert answer.usage.completion_tokens == 5
    assert answer.choices[0].finish_reason == "length"


def test_seeds_reproduce_and_differ(complete):
    answers = [complete(temperature=1, seed=seed).choices[0].text for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_several_choices_each_have_a_text_of_their_own(complete, chat):
    answer = complete(temperature=1, seed=1, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].text != answer.choices[1].text
    assert answer.choices[0].text == complete(temperature=1, seed=1).choices[0].text
    assert answer.usage.completion_tokens <= 2 * TOKENS
    greedy = chat(n=2)
    assert greedy.choices[0].message.content == greedy.choices[1].message.content
    texts = {0: "", 1: ""}
    for chunk in complete(temperature=1, seed=1, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert list(texts.values()) == [choice.text for choice in answer.choices]


def test_stop_strings_end_the_answer_and_are_left_out(complete):
    whole = complete().choices[0].text
    stop = whole[20:26]
    answer = complete(stop=[stop, "never to be found"])
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert "".join(chunk.choices[0].text for chunk in complete(stop=stop, stream=True)) == answer.choices[0].text


def test_the_log_probabilities_of_a_chat(chat):
    answer = chat(logprobs=True, top_logprobs=3, max_tokens=6)
    content = answer.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in content).decode() == answer.choices[0].message.content
    for token in content:
        assert len(token.top_logprobs) == 3
        assert (token.token, token.logprob) == (token.top_logprobs[0].token, token.top_logprobs[0].logprob)  # greedy
        logprobs = [top.logprob for top in token.top_logprobs]
        assert logprobs == sorted(logprobs, reverse=True)
    streamed = list(chat(logprobs=True, top_logprobs=3, max_tokens=6, stream=True))
    assert [
        token for chunk in streamed for choice in chunk.choices if choice.logprobs for token in choice.logprobs.content
    ] == content
    assert chat(max_tokens=2).choices[0].logprobs is None


def test_the_log_probabilities_of_a_completion(complete):
    answer = complete(logprobs=2, max_tokens=6).choices[0]
    logprobs = answer.logprobs
    assert "".join(logprobs.tokens) == answer.text
    assert logprobs.text_offset == [len("".join(logprobs.tokens[:index])) for index in range(6)]
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert len(top) == 2
        assert max(top.values()) == top[token] == logprob


def test_an_emoji_split_over_tokens_comes_out_whole(complete, unsplit):
    tokens = unsplit.encode("🥘")
    assert len(tokens) == 3
    # The bias lets no other tokens come, and the model puts the bytes in order by itself.
    options = {"prompt": "🥘" * 12, "max_tokens": 12, "logit_bias": dict.fromkeys(map(str, tokens), 100)}
    deltas = [chunk.choices[0].text for chunk in complete(stream=True, **options)]
    assert "".join(deltas) == complete(**options).choices[0].text == "🥘🥘🥘🥘"
    assert [delta for delta in deltas if delta] == ["🥘"] * 4


def bent_greedy(
    unsplit: Unsplit,
    count: int,
    bias: dict[int, float] | None = None,
    frequency: float = 0.0,
    presence: float = 0.0,
    repetition: float = 1.0,
) -> str:
    """What the story's unsplit continuation is when all logits are bent as OpenAI says, and as Hugging Face does."""
    tokens, answer = unsplit.encode(STORY), list[int]()
    unsplit._engine.close(1)
    [logits] = unsplit._feed(0, tokens)
    while len(answer) < count:
        bent, seen = logits.astype(np.float64), Counter(answer)
        for token, addend in (bias or {}).items():
            bent[token] += addend
        for token in {*unsplit.encode(STORY), *answer}:
            bent[token] = bent[token] / repetition if bent[token] > 0 else bent[token] * repetition
        for token, times in seen.items():
            bent[token] -= frequency * times + presence
        answer.append(int(bent.argmax()))
        [logits] = unsplit._feed(len(tokens) + len(answer) - 1, [answer[-1]])
    return b"".join(map(unsplit.tokenizer.piece, answer)).decode("utf-8", "replace")


def test_penalties_and_biases_bend_the_logits_as_they_should(complete, unsplit):
    [first] = unsplit.greedy(unsplit.encode(STORY), 1)
    other = unsplit.encode(" the")[0]
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"frequency_penalty": 2}, {"frequency": 2.0}),
        ({"presence_penalty": 2}, {"presence": 2.0}),
        ({"extra_body": {"repetition_penalty": 1.5}}, {"repetition": 1.5}),
        ({"logit_bias": {str(first): -100, str(other): 3}}, {"bias": {first: -100.0, other: 3.0}}),
    ]
    texts = []
    for asked, bent in cases:
        extra = {"ignore_eos": True, **asked.get("extra_body", {})}
        texts.append(complete(max_tokens=40, **asked | {"extra_body": extra}).choices[0].text)
        assert texts[-1] == bent_greedy(unsplit, 40, **bent)
    assert texts[0] not in texts[1:]


@pytest.mark.parametrize("field", [{"top_p": 0}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1}}])
def test_the_narrowest_choice_is_greedy(complete, field):
    assert complete(temperature=1.5, **field).choices[0].text == complete().choices[0].text


def test_a_stop_string_may_begin_and_end_within_tokens(complete, unsplit):
    pieces = [unsplit.tokenizer.piece(token).decode() for token in unsplit.greedy(unsplit.encode(STORY), TOKENS)]
    whole = "".join(pieces)
    start = len("".join(pieces[:4])) - 1  # the last letter of one token, the next, and the first of the one after
    stop = whole[start : start + len(pieces[4]) + 2]
    assert whole.index(stop) == start
    for stops in (stop, ["nowhere", stop]):
        answer = complete(stop=stops).choices[0]
        assert (answer.text, answer.finish_reason) == (whole[:start], "stop")
        chunks = list(complete(stop=stops, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole[:start]
        assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_prompt_is_echoed_with_its_log_probabilities(complete, unsplit):
    tokens = unsplit.encode(STORY)
    whole = complete(echo=True, logprobs=2, max_tokens=0).choices[0]
    assert whole.text == STORY
    assert whole.logprobs.token_logprobs == [None, *unsplit.score(tokens)]
    assert whole.logprobs.top_logprobs[0] is None
    assert [len(top) for top in whole.logprobs.top_logprobs[1:]] == [2] * (len(tokens) - 1)
    answer = complete(echo=True, logprobs=2, max_tokens=4).choices[0]
    assert answer.text == STORY + complete(max_tokens=4).choices[0].text
    chunks = [
        choice for chunk in complete(echo=True, logprobs=2, max_tokens=4, stream=True) for choice in chunk.choices
    ]
    assert "".join(choice.text for choice in chunks) == answer.text
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        told = [value for choice in chunks if choice.logprobs for value in getattr(choice.logprobs, field)]
        assert told == getattr(answer.logprobs, field)


@pytest.mark.parametrize("text", ["a 😀 b", "é日本", "😀😀"])
def test_log_probabilities_tell_where_in_the_text_each_token_is(complete, text):
    choice = complete(prompt=text, echo=True, logprobs=1, max_tokens=2).choices[0]
    offsets, tokens = choice.logprobs.text_offset, choice.logprobs.tokens
    assert offsets == sorted(offsets)
    assert offsets[-1] < len(choice.text)
    whole = [(offset, token) for offset, token in zip(offsets, tokens, strict=True) if not token.startswith("bytes:")]
    assert len(whole) < len(tokens)
    assert all(choice.text.startswith(token, offset) for offset, token in whole)


def test_the_bytes_of_a_chats_tokens_are_the_bytes_of_its_text(client, name):
    ask = [{"role": "user", "content": "Say 😀 and 日本"}]
    choice = client.chat.completions.create(model=name, messages=ask, logprobs=True, max_tokens=24).choices[0]
    told = b"".join(bytes(entry.bytes) for entry in choice.logprobs.content).decode("utf-8", "replace")
    assert told.removesuffix("<|im_end|>") == choice.message.content


@pytest.mark.parametrize("stop", ["<|im_end|>", ["<|im_start|>", "<|im_end|>"], "<|im_end|>\n"])
def test_a_stop_string_may_be_a_control_token(chat, stop):
    usual = chat(max_tokens=40, messages=SHORT)
    answer = chat(max_tokens=40, messages=SHORT, stop=stop, extra_body={"ignore_eos": True})
    assert usual.choices[0].finish_reason == answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content.startswith(usual.choices[0].message.content)
    assert "<|im_end|>" not in usual.choices[0].message.content
    if stop != "<|im_end|>\n":
        assert answer.choices[0].message.content == usual.choices[0].message.content


def test_token_ids_may_end_an_answer(complete, unsplit):
    tokens = unsplit.greedy(unsplit.encode(STORY), TOKENS)
    stop = next(token for token in tokens if tokens.index(token) >= 4)
    answer = complete(extra_body={"stop_token_ids": [stop]}).choices[0]
    assert answer.finish_reason == "stop"
    assert answer.text == unsplit.text(unsplit.encode(STORY), tokens.index(stop))
    nothing: list[dict[str, Any]] = [{"stop_token_ids": []}, {"stop_token_ids": None}]
    for body in nothing:
        assert complete(extra_body=body).choices[0].text == complete().choices[0].text


HABITS = [
    {"model": ""},
    {"model": None},
    {"stop": ""},
    {"stop": [""]},
    {"max_tokens": str(TOKENS)},
    {"max_tokens": float(TOKENS)},
    {"temperature": "0", "top_k": -1},
    {"top_p": 1, "seed": -1, "n": "1"},
    {"stream_options": {"include_usage": None}},
    {"best_of": 1, "suffix": "", "use_beam_search": False, "skip_special_tokens": True},
]


@pytest.mark.parametrize("habit", HABITS, ids=str)
def test_what_clients_send_by_habit_changes_nothing(complete, chat, habit):
    assert complete(extra_body=habit).choices[0].text == complete().choices[0].text
    if "best_of" not in habit:
        assert chat(extra_body=habit).choices[0].message.content == chat().choices[0].message.content


@pytest.mark.parametrize("limit", [-1, 10**6])
def test_an_answer_without_a_limit_ends_where_the_model_ends_it(chat, limit):
    assert chat(max_tokens=limit, messages=SHORT).choices[0].finish_reason == "stop"
    assert chat(max_tokens=0).choices[0].message.content == ""


STRUCTURES = [
    (
        {
            "response_format": {
                "type": "json_object",
                "schema": {
                    "type": "object",
                    "required": ["zebra"],
                    "properties": {"zebra": {"type": "integer"}},
                    "additionalProperties": False,
                },
            }
        },
        r'\{\s*"zebra"\s*:\s*-?\d+\s*\}',
    ),
    ({"guided_choice": ["rainy", "sunny"]}, "rainy|sunny"),
    ({"guided_regex": "[0-9]{3}-[a-f]{2}"}, "[0-9]{3}-[a-f]{2}"),
    ({"grammar": 'root ::= "yes" | "no"'}, "yes|no"),
    ({"structured_outputs": {"choice": ["left", "right"]}}, "left|right"),
]


@pytest.mark.parametrize(("field", "expected"), STRUCTURES, ids=lambda value: str(value)[:30])
def test_an_answer_has_the_structure_that_is_prescribed(chat, complete, field, expected):
    for text in (
        chat(max_tokens=40, extra_body=field).choices[0].message.content,
        complete(max_tokens=40, extra_body=field).choices[0].text,
    ):
        assert re.fullmatch(expected, text)


def test_a_hundred_prompts_at_once(complete, unsplit):
    prompts = [f"{number} and" for number in range(130)]
    texts = [choice.text for choice in complete(prompt=prompts, max_tokens=3).choices]
    assert texts[::40] == [unsplit.text(unsplit.encode(prompt), 3) for prompt in prompts[::40]]
    assert len(texts) == 130


def test_several_prompts_as_texts_and_as_tokens(complete, unsplit):
    prompts = [STORY, "The capital of France is"]
    alone = [complete(prompt=prompt, max_tokens=4).choices[0].text for prompt in prompts]
    for batch in (prompts, [unsplit.encode(prompt) for prompt in prompts]):
        answer = complete(prompt=batch, max_tokens=4)
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert [choice.text for choice in answer.choices] == alone
        assert answer.usage.prompt_tokens == sum(len(unsplit.encode(prompt)) for prompt in prompts)
    texts = {0: "", 1: ""}
    chunks = list(complete(prompt=prompts, max_tokens=4, stream=True, stream_options={"include_usage": True}))
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.text
    assert list(texts.values()) == alone
    assert chunks[-1].usage.completion_tokens == 8


def test_what_is_not_known_here_is_ignored(chat):
    asked = {"user": "me", "metadata": {"a": "b"}, "store": False, "extra_body": {"colour": ["blue"]}}
    assert chat(max_tokens=3, **asked).choices[0].message.content == chat(max_tokens=3).choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("wrong", "kind", "param"),
    [
        ({"temperature": "hot"}, openai.BadRequestError, "temperature"),
        ({"n": 1.5}, openai.BadRequestError, "n"),
        ({"stop": [1]}, openai.BadRequestError, "stop"),
        ({"max_tokens": 1.5}, openai.BadRequestError, "max_tokens"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"model": "another"}, openai.NotFoundError, "model"),
    ],
)
def test_errors_are_the_clients_own(chat, stream, wrong, kind, param):
    with pytest.raises(kind) as caught:
        chat(stream=stream, **wrong)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert str(caught.value.body["message"]).endswith(".")
