"""Answers in a prescribed form, by the official client, against SmolLM2 on three nodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import openai
import pytest
from pydantic import BaseModel

from kit.unsplit import Unsplit
from potluck.coordinator.generation.grammar import Grammars
from potluck.coordinator.generation.structure import Kind, Structure
from potluck.coordinator.text.template import ChatTemplate

QUESTION: list[Any] = [{"role": "user", "content": "Describe a person as JSON."}]


class Person(BaseModel):
    name: str
    age: int
    colour: str


COLOUR = {"enum": ["red", "green", "blue"]}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}, "colour": COLOUR},
    "required": ["name", "age", "colour"],
    "additionalProperties": False,
}


def keeping_to(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


@pytest.fixture
def chat(client: openai.OpenAI, name: str) -> Callable[..., Any]:
    usual: dict[str, Any] = {"model": name, "messages": QUESTION, "max_tokens": 60, "temperature": 0}
    return lambda **options: client.chat.completions.create(**usual | options)


def unsplit_answer(unsplit: Unsplit, schema: dict[str, Any]) -> str:
    """What greedy decoding gives when the whole row of logits is masked."""
    tokenizer = unsplit.tokenizer
    template = ChatTemplate(tokenizer.chat_template, tokenizer.bos, tokenizer.eos)
    tokens, answer = unsplit.encode(template.render(QUESTION)), b""
    constraint = Grammars(tokenizer).of(Structure(Kind.SCHEMA, schema, "response_format")).start()
    unsplit._engine.close(1)
    [logits] = unsplit._feed(0, tokens)
    while True:
        allowed = constraint.allowed()
        token = int(allowed[np.argmax(logits[allowed])])
        constraint.accept(token)
        answer += tokenizer.piece(token)
        if constraint.is_complete or token in tokenizer.stop_ids:
            return answer.decode()
        [logits] = unsplit._feed(len(tokens), [token])
        tokens.append(token)


@pytest.mark.parametrize("schema", [SCHEMA, COLOUR, {"type": "string", "pattern": "^[a-f]{8}[A-Z]{4}$"}])
def test_a_greedy_answer_is_that_of_the_unsplit_model_under_the_same_mask(
    chat: Callable[..., Any], unsplit: Unsplit, schema: dict[str, Any]
) -> None:
    [choice] = chat(response_format=keeping_to(schema)).choices
    assert choice.message.content == unsplit_answer(unsplit, schema)
    assert choice.finish_reason == "stop"


def test_a_streamed_answer_is_the_same_and_seeds_reproduce(chat: Callable[..., Any]) -> None:
    options = {"response_format": keeping_to(SCHEMA), "temperature": 1, "seed": 4, "n": 2}
    whole = [choice.message.content for choice in chat(**options).choices]
    streamed = ["", ""]
    for chunk in chat(stream=True, **options):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == whole
    assert all(json.loads(text).keys() == SCHEMA["properties"].keys() for text in whole)


def test_the_clients_own_parsing(client: openai.OpenAI, name: str) -> None:
    answer = client.chat.completions.parse(
        model=name, messages=QUESTION, response_format=Person, max_tokens=200, temperature=0.5, seed=1
    )
    person = answer.choices[0].message.parsed
    assert person is not None
    assert isinstance(person.age, int)


def test_a_json_object_is_one_or_its_beginning(chat: Callable[..., Any]) -> None:
    [choice] = chat(response_format={"type": "json_object"}, max_tokens=300).choices
    assert choice.message.content.startswith("{")
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict)


def test_log_probabilities_are_those_of_the_model(chat: Callable[..., Any]) -> None:
    [choice] = chat(response_format=keeping_to(COLOUR), logprobs=True, top_logprobs=1).choices
    content = choice.logprobs.content
    assert "".join(token.token for token in content) == choice.message.content
    assert content[0].logprob < content[0].top_logprobs[0].logprob  # it would rather have said something else


@pytest.mark.parametrize(
    "options",
    [
        {"response_format": keeping_to({"type": "nonsense"})},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_object"}, "extra_body": {"ignore_eos": True}},
    ],
)
def test_what_cannot_be_kept_to_is_refused(chat: Callable[..., Any], options: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(**options)
    assert caught.value.param is not None
    assert caught.value.param.startswith("response_format")
