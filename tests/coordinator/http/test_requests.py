import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.generation.sampling import SamplingParams
from potluck.coordinator.http.admin import NewInvite
from potluck.coordinator.http.parsing import parse
from potluck.coordinator.http.requests import MAX_CHOICES, MOST_ANSWERS, ChatRequest, CompletionRequest
from potluck.errors import RequestError
from potluck.types import Priority

MESSAGES = [{"role": "user", "content": "hello"}]
DEFAULTS = SamplingParams()


def chat(**fields: Any) -> ChatRequest:
    return parse(json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode(), ChatRequest)


def completion(**fields: Any) -> CompletionRequest:
    return parse(json.dumps({"model": "m", "prompt": "hello", **fields}).encode(), CompletionRequest)


def test_defaults_are_those_of_openai() -> None:
    asked = chat()
    assert (asked.stream, asked.choices, asked.stops, asked.include_usage) == (False, 1, (), False)
    assert (asked.limit, asked.alternatives) == (None, None)
    params = asked.sampling(0, DEFAULTS)
    assert (params.temperature, params.top_p, params.seed) == (1.0, 1.0, None)
    assert completion().limit == 16
    assert completion(max_tokens=0).limit == 0


def test_fields_unknown_to_us_are_ignored() -> None:
    assert chat(user="me", metadata={"a": [1]}, response_format=None).model == "m"


def test_a_request_may_take_no_other_fields_than_its_own() -> None:
    assert parse(b'{"uses": null}', NewInvite) == NewInvite()
    with pytest.raises(RequestError, match="unknown field `others`"):
        parse(b'{"uses": 1, "others": null}', NewInvite)


def test_nulls_are_defaults() -> None:
    optional = ["max_tokens", "n", "stop", "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed"]
    optional += ["min_tokens", "logit_bias", "logprobs", "stream_options", "stream"]
    nulls: dict[str, Any] = dict.fromkeys(optional)
    asked = chat(**nulls, max_completion_tokens=None, top_logprobs=None)
    assert asked.sampling(0, DEFAULTS) == chat().sampling(0, DEFAULTS)
    assert completion(**nulls, echo=None).sampling(0, DEFAULTS) == completion().sampling(0, DEFAULTS)


def test_what_a_request_leaves_out_is_the_models_own() -> None:
    model = SamplingParams(temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.05)
    params = chat(top_p=0.5, temperature=None, seed=3).sampling(0, model)
    assert (params.temperature, params.top_p, params.top_k, params.repetition_penalty) == (0.6, 0.5, 20, 1.05)
    assert (params.seed, params.min_p) == (3, 0)


def test_sampling_takes_what_is_given() -> None:
    given_fields = {"temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "frequency_penalty": -1}
    params = chat(**given_fields, presence_penalty=2, logit_bias={"5": -100, "7": 1.5}, seed=-3).sampling(2, DEFAULTS)
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0, 0.5, 3, 0.1)
    assert (params.frequency_penalty, params.presence_penalty) == (-1, 2)
    assert params.logit_bias == {5: -100, 7: 1.5}
    assert params.seed == -1  # each of several answers has its own


@pytest.mark.parametrize(
    ("given_fields", "urgency"),
    [
        ({}, Priority.INTERACTIVE),
        ({"priority": None}, Priority.INTERACTIVE),
        ({"priority": "batch"}, Priority.BATCH),
        ({"service_tier": "flex"}, Priority.BATCH),
        ({"service_tier": "auto"}, Priority.INTERACTIVE),
        ({"service_tier": "flex", "priority": "interactive"}, Priority.INTERACTIVE),
    ],
)
def test_someone_waits_for_an_answer_unless_they_say_otherwise(given_fields: dict[str, Any], urgency: Priority) -> None:
    assert (chat(**given_fields).urgency, completion(**given_fields).urgency) == (urgency, urgency)


def test_an_unknown_priority_is_refused() -> None:
    with pytest.raises(
        RequestError, match=r"^priority must be \"interactive\", \"batch\" or a whole number, not 'high'\.$"
    ):
        chat(priority="high")


def test_the_newer_name_of_the_limit_wins() -> None:
    assert chat(max_tokens=5, max_completion_tokens=9).limit == 9


NO_STOPS = [("", ()), ([""], ()), ([None], ()), (["", "x"], ("x",)), (["x"] * 256, ("x",) * 256)]


@pytest.mark.parametrize(
    ("stop", "stops"), [(None, ()), ("x", ("x",)), (["x", "yy"], ("x", "yy")), ([], ()), ("🥘", ("🥘",)), *NO_STOPS]
)
def test_stops_are_one_or_several_strings(stop: object, stops: tuple[str, ...]) -> None:
    assert chat(stop=stop).stops == stops


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([0], [[0]]),
        (["one", [2]], ["one", [2]]),
        ([[0]], [[0]]),
    ],
)
def test_a_prompt_is_a_text_or_tokens_or_several_of_these(prompt: object, prompts: object) -> None:
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    "prompt",
    [
        *("", [], [""], [[]], ["a", ""], [[1], []], None, 5, {}, [None], [[["a"]]]),
        *([1, "a"], [[1], 2], [1.5], [True], [[True]], ["a"] * (MOST_ANSWERS + 1), [[1]] * (MOST_ANSWERS + 1)),
    ],
    ids=lambda prompt: repr(prompt)[:20],
)
def test_any_other_prompt_is_refused(prompt: object) -> None:
    with pytest.raises(RequestError) as caught:
        assert completion(prompt=prompt).prompts
    assert (caught.value.status, caught.value.param) == (400, "prompt")


REFUSED = [
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 1.1}, "top_p"),
    ({"min_p": -1}, "min_p"),
    ({"min_p": -0.1}, "min_p"),
    ({"frequency_penalty": 2.5}, "frequency_penalty"),
    ({"presence_penalty": -2.5}, "presence_penalty"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"n": 0}, "n"),
    ({"n": -1}, "n"),
    ({"n": MAX_CHOICES + 1}, "n"),
    ({"n": 10**30}, "n"),
    ({"n": 1.5}, "n"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 1.5}, "min_tokens"),
    ({"stop": ["x"] * 257}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"stop": {"x": 1}}, "stop"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"logit_bias": {"1": "x"}}, "logit_bias"),
    ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"seed": 1.5}, "seed"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": -1}, "logprobs"),
]


def use(asked: ChatRequest | CompletionRequest) -> None:
    """Everything that a request is asked for while it is answered."""
    asked.sampling(asked.choices - 1, DEFAULTS)
    assert isinstance(asked.stops, tuple)
    assert asked.alternatives is None or asked.alternatives >= 0
    assert asked.prescribed is None or asked.prescribed.param
    assert asked.least(max(0, asked.limit or 0)) >= 0


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda value: str(value)[:40])
def test_values_out_of_range_name_their_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        use(completion(**fields))
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [1]}, "messages"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"best_of": 2}, "best_of"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"stream_options": {"include_usage": 2}}, "stream_options.include_usage"),
    ],
)
def test_values_of_a_chat_out_of_range_name_their_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        use(chat(**fields))
    assert (caught.value.status, caught.value.param) == (400, param)


RAIN = {"type": "function", "function": {"name": "rain", "parameters": {"properties": {}}}}
SUN = {"type": "function", "function": {"name": "sun"}}
ONE = {"type": "function", "function": {"name": "sun"}}


@pytest.mark.parametrize(
    ("choice", "offered", "demanded"),
    [
        (None, ["rain", "sun"], []),
        ("auto", ["rain", "sun"], []),
        ("none", [], []),
        ("required", ["rain", "sun"], ["rain", "sun"]),
        (ONE, ["rain", "sun"], ["sun"]),
    ],
)
def test_tools_that_may_and_that_must_be_called(choice: object, offered: list[str], demanded: list[str]) -> None:
    asked = chat(tools=[RAIN, SUN], tool_choice=choice)
    assert [tool.function.name for tool in asked.offered] == offered
    assert [tool.function.name for tool in asked.demanded] == demanded
    assert asked.calls_once is (choice == ONE)
    assert chat(tools=[RAIN], parallel_tool_calls=False).calls_once


def test_arguments_are_objects() -> None:
    schemas = [tool.function.schema for tool in chat(tools=[RAIN, SUN]).offered]
    assert schemas == [{"type": "object", "properties": {}}, {"type": "object", "additionalProperties": False}]
    text = {"type": "function", "function": {"name": "rain", "parameters": {"type": "string"}}}
    [tool] = chat(tools=[text]).offered
    with pytest.raises(RequestError, match="must be an object, not 'string'"):
        _ = tool.function.schema


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required"},
        {"tool_choice": ONE, "tools": [RAIN]},
        {"tool_choice": "required", "tools": [RAIN], "ignore_eos": True},
        {"tool_choice": "required", "tools": [RAIN], "min_tokens": 1},
    ],
)
def test_a_call_that_cannot_be_demanded(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        _ = chat(**fields).demanded
    assert (caught.value.status, caught.value.param) == (400, "tool_choice")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(RequestError, match=r"^messages is missing\.$") as caught:
        parse(b'{"model": "m"}', ChatRequest)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"model": "\xff", "messages": []}',
        b'{"model": "\\ud800", "messages": []}',
        b'{"model": "m", "messages": [], "temperature": NaN}',
        b'{"model": "m", "messages": [], "temperature": Infinity}',
        b'{"model": "m", "messages": [], "temperature": 1e999}',
        b'{"model": "m", "messages": [], "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "m", "messages": []} {"again": 1}',
        b'{"model": "m", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000,
        b"[" * 1_000_000,
    ],
    ids=lambda body: repr(body[:60]),
)
def test_a_body_that_is_no_request_is_a_request_error(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse(body, ChatRequest)
    assert caught.value.status == 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from([*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__])


@given(st.dictionaries(fields, json_values, max_size=4))
def test_wrong_types_raise_nothing_but_request_errors(values: dict[str, Any]) -> None:
    for make in (chat, completion):
        try:
            use(make(**values))
        except RequestError as error:
            status = error.status
        else:
            status = 200
        assert status in (200, 400)


@given(st.binary(max_size=60))
def test_random_bodies_raise_nothing_but_request_errors(body: bytes) -> None:
    with pytest.raises(RequestError):
        parse(body, ChatRequest)
