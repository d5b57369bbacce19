"""Tool calls by the official client, against SmolLM2 and against a model that is taught tools, on three nodes."""

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

QUESTION: Any = {"role": "user", "content": "Will it rain in Cologne?"}
CITY = {"type": "object", "properties": {"city": {"enum": ["Cologne", "Rome"]}}, "required": ["city"]}
TOOL: Any = {"type": "function", "function": {"name": "rain", "description": "Asks the weather.", "parameters": CITY}}
CALL = {
    "type": "object",
    "properties": {"name": {"const": "rain"}, "parameters": {**CITY, "additionalProperties": False}},
    "required": ["name", "parameters"],
    "additionalProperties": False,
}
"""This little model calls no tools by itself, so that its words are prescribed."""


@pytest.fixture
def chat(client: openai.OpenAI, name: str) -> Callable[..., Any]:
    form: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "call", "schema": CALL}}
    options: dict[str, Any] = {
        "model": name,
        "messages": [QUESTION],
        "tools": [TOOL],
        "response_format": form,
        "temperature": 0,
    }
    return lambda **changes: client.chat.completions.create(**options | changes)


def test_a_call_whole_and_streamed_and_its_answer(chat: Callable[..., Any], client: openai.OpenAI, name: str) -> None:
    [choice] = chat().choices
    [call] = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert call.function.name == "rain"
    assert json.loads(call.function.arguments).keys() == {"city"}
    chunks = [choice for chunk in chat(stream=True) for choice in chunk.choices]
    first, *more = [call for choice in chunks for call in choice.delta.tool_calls or []]
    assert (first.index, first.function.name, first.type) == (0, "rain", "function")
    assert first.id.startswith("call_")
    assert {(piece.index, piece.id, piece.function.name) for piece in more} == {(0, None, None)}
    assert len(more) > 3
    assert "".join(piece.function.arguments for piece in [first, *more]) == call.function.arguments
    assert chunks[-1].finish_reason == "tool_calls"
    told = {"role": "tool", "tool_call_id": call.id, "content": "No."}
    messages = [QUESTION, choice.message.model_dump(exclude_none=True), told]
    [after] = client.chat.completions.create(model=name, messages=messages, tools=[TOOL], max_tokens=5).choices
    assert after.message.content


def test_a_tag_inside_an_argument_does_not_end_the_only_call(chat: Callable[..., Any]) -> None:
    city = {**CITY, "properties": {"city": {"const": "a</tool_call>b"}}, "additionalProperties": False}
    schema = {**CALL, "properties": {"name": {"const": "rain"}, "parameters": city}}
    form = {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}
    [choice] = chat(response_format=form, parallel_tool_calls=False).choices
    [call] = choice.message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "a</tool_call>b"}
    assert (choice.message.content, choice.finish_reason) == (None, "tool_calls")


def test_text_that_begins_like_json_flows_though_tools_are_offered(chat: Callable[..., Any]) -> None:
    answer = {"answer": {"enum": ["It may rain."]}}
    schema = {"type": "object", "properties": answer, "required": ["answer"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    chunks = chat(response_format=form, stream=True, max_tokens=40)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    texts = [choice.delta.content for choice in choices if choice.delta.content]
    assert json.loads("".join(texts)) == {"answer": "It may rain."}
    assert len(texts) > 3
    assert not any(choice.delta.tool_calls for choice in choices)


@pytest.mark.parametrize("changes", [{"tools": openai.omit}, {"tool_choice": "none"}])
def test_where_no_tool_may_be_called_all_is_text(chat: Callable[..., Any], changes: dict[str, Any]) -> None:
    [choice] = chat(**changes).choices
    assert choice.message.tool_calls is None
    assert json.loads(choice.message.content)["name"] == "rain"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tools": [{"type": "magic"}]}, "tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "snow"}}}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": "never"}, "tool_choice"),
        ({"tool_choice": "required", "extra_body": {"min_tokens": 5}}, "tool_choice"),
    ],
)
def test_what_is_no_tool_or_cannot_be_promised_is_refused(
    chat: Callable[..., Any], changes: dict[str, Any], param: str, smol: LocalSwarm
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(**changes)
    assert caught.value.param == param


MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}{% for message in messages %}"
    "{% for call in message.tool_calls %}{% if call.id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    "[TOOL_CALLS]{{ call.function.name }}[ARGS]{{ call.function.arguments | tojson }}{% endfor %}{% endfor %}"
)
TEMPLATES = {
    "hermes": '{% if tools %}<tool_call>{"name": …, "arguments": …}</tool_call>{{ tools | tojson }}{% endif %}',
    "llama": '{% if tools %}{{ \'{"name": …, "parameters": …}\' }} {{ tools | tojson }}{# tool_calls #}{% endif %}',
    "coder": "{% if tools %}<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>"
    "{{ tools | tojson }}{% endif %}",
    "mistral": MISTRAL,
    "none": "",
}
CONTROLS = ("[TOOL_CALLS]", "[ARGS]")
CLOSED = {**CITY, "additionalProperties": False}
NOTHING = {"type": "function", "function": {"name": "sun", "strict": True}}
STRICT = {"type": "function", "function": {**TOOL["function"], "parameters": CLOSED, "strict": True}}
TOOLS = [STRICT, NOTHING]
RAIN = {"type": "function", "function": {"name": "rain"}}


@pytest.fixture(scope="module", params=TEMPLATES)
def taught(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSwarm]:
    """A random model for each template, in whose vocabulary Mistral's marks are control tokens."""
    path = tmp_path_factory.mktemp("taught") / f"{request.param}.gguf"
    template = TEMPLATES[request.param] + CHAT_TEMPLATE
    write_tiny_gguf(path, tokenizer="bpe", context=2048, dtype=EXACT, template=template, controls=CONTROLS)
    with LocalSwarm(path, even_spans(6, 3), serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        yield swarm


@pytest.fixture
def asked(taught: LocalSwarm, client_of: Callable[[LocalSwarm], openai.OpenAI]) -> Callable[..., Any]:
    """The whole answer, which is the same streamed, as the client puts it together."""
    client = client_of(taught)
    model = client.models.list().data[0].id

    def ask(**changes: Any) -> Any:
        options: dict[str, Any] = {
            "model": model,
            "messages": [QUESTION],
            "tools": TOOLS,
            "temperature": 0,
            "max_tokens": 300,
        }
        whole = client.chat.completions.create(**options | changes)
        with client.chat.completions.stream(**options | changes) as stream:
            put_together = stream.get_final_completion()
        for one, other in zip(whole.choices, put_together.choices, strict=True):
            assert one.finish_reason == other.finish_reason
            assert (one.message.content or "") == (other.message.content or "")
            assert calls_of(one) == calls_of(other)
        return whole

    return ask


def calls_of(choice: Any) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]


@pytest.mark.parametrize("options", [{}, {"temperature": 1, "seed": 1, "n": 3}])
def test_a_call_can_be_demanded(asked: Callable[..., Any], options: dict[str, Any]) -> None:
    for choice in asked(tool_choice="required", parallel_tool_calls=False, **options).choices:
        [(name, arguments)] = calls_of(choice)
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        if name == "rain":
            assert json.loads(arguments)["city"] in ("Cologne", "Rome")
        else:
            assert (name, json.loads(arguments)) == ("sun", {})


def test_a_call_and_its_result_can_be_replayed(
    taught: LocalSwarm, client_of: Callable[[LocalSwarm], openai.OpenAI]
) -> None:
    client, model = client_of(taught), taught.status()["model"]
    options: dict[str, Any] = {"model": model, "tools": TOOLS, "temperature": 0}
    demand = {**options, "max_tokens": 300, "messages": [QUESTION], "tool_choice": RAIN}
    message = client.chat.completions.create(**demand).choices[0].message
    [call] = message.tool_calls or []
    assert len(call.id) == 9 if model == "mistral" else call.id.startswith("call_")
    for identity in (call.id, "toolu_of_another_server"):
        said: Any = message.model_dump(exclude_none=True)
        said["tool_calls"][0]["id"] = identity
        told: Any = {"role": "tool", "tool_call_id": identity, "content": "It will not."}
        after = client.chat.completions.create(**options, messages=[QUESTION, said, told], max_tokens=3)
        assert after.choices[0].finish_reason == "length"


def test_a_call_of_one_function_can_be_demanded(asked: Callable[..., Any]) -> None:
    names = {
        name
        for seed in range(3)
        for choice in asked(tool_choice=RAIN, temperature=1, seed=seed).choices
        for name, _ in calls_of(choice)
    }
    assert names == {"rain"}


def test_calls_may_be_several_where_the_form_allows_it(
    taught: LocalSwarm, client_of: Callable[[LocalSwarm], openai.OpenAI]
) -> None:
    client, model = client_of(taught), taught.status()["model"]
    tokens = bpe_tokens()
    another = (tokens.index("Ċ"), len(tokens))  # a line break, or [TOOL_CALLS], after which there must be another call
    options = {"model": model, "messages": [QUESTION], "tools": [NOTHING], "tool_choice": "required", "max_tokens": 150}
    [choice] = client.chat.completions.create(**options, logit_bias={str(token): 50 for token in another}).choices
    assert {name for name, _ in calls_of(choice)} == {"sun"}
    count = len({call.id for call in choice.message.tool_calls})
    assert count == 1 if model == "llama" else count > 1


def test_parameters_that_cannot_be_kept_to_are_refused(asked: Callable[..., Any]) -> None:
    wrong = {"type": "function", "function": {"name": "rain", "strict": True, "parameters": {"$ref": "#/nowhere"}}}
    with pytest.raises(openai.BadRequestError) as caught:
        asked(tools=[wrong], tool_choice="required")
    assert caught.value.param == "tools"
