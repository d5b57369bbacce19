"""What clients of llama.cpp's server, of vLLM and of other servers send by habit, and how it is read."""

import json
from typing import Any

import msgspec
import pytest

from potluck.coordinator.generation.sampling import SamplingParams
from potluck.coordinator.generation.structure import Kind
from potluck.coordinator.http.habits import REFUSED, REFUSED_FOR_COMPLETIONS, refuse_unsupported
from potluck.coordinator.http.parsing import parse
from potluck.coordinator.http.requests import ChatRequest, CompletionRequest
from potluck.coordinator.http.tools import Tool
from potluck.errors import RequestError
from potluck.types import Priority

DEFAULTS = SamplingParams()
SCHEMA = {"type": "object", "properties": {"zebra": {"type": "integer"}}}


def chat(**fields: Any) -> ChatRequest:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return parse(json.dumps(body).encode(), ChatRequest, refuse_unsupported)


def completion(**fields: Any) -> CompletionRequest:
    return parse(json.dumps({"prompt": "hi", **fields}).encode(), CompletionRequest, refuse_unsupported)


@pytest.mark.parametrize(
    ("text", "value"), [('"0.7"', 0.7), ('"1"', 1), ("1", 1), ("1.0", 1), ('"7e-1"', 0.7), ("0", 0), ('"2.5"', 2.5)]
)
def test_a_fraction_may_be_written_as_text(text: str, value: float) -> None:
    asked = parse(f'{{"prompt": "hi", "temperature": {text}}}'.encode(), CompletionRequest)
    assert asked.sampling(0, DEFAULTS).temperature == value


@pytest.mark.parametrize(("text", "value"), [("4.0", 4), ('"4"', 4), ('"4.0"', 4), ("4e0", 4), ('"-1"', -1), ("0", 0)])
def test_a_whole_number_may_be_written_with_a_fraction_or_as_text(text: str, value: int) -> None:
    asked = parse(f'{{"prompt": "hi", "max_tokens": {text}, "n": 1.0, "seed": {text}}}'.encode(), CompletionRequest)
    assert (asked.limit, asked.choices, asked.seed) == (value, 1, value)


@pytest.mark.parametrize("text", ["4.5", '"4.5"', '"four"', '""', "[4]", "true", '"true"', '" "', "NaN"])
def test_what_is_no_whole_number_is_still_refused(text: str) -> None:
    with pytest.raises(RequestError):
        parse(f'{{"prompt": "hi", "max_tokens": {text}}}'.encode(), CompletionRequest)


@pytest.mark.parametrize(("text", "value"), [("1", True), ("0", False), ('"true"', True), ('"False"', False)])
def test_a_truth_value_may_be_written_as_text_or_as_a_number(text: str, value: bool) -> None:
    assert parse(f'{{"prompt": "hi", "stream": {text}}}'.encode(), CompletionRequest).stream is value


def test_text_that_looks_like_a_number_stays_text_where_text_is_wanted() -> None:
    asked = completion(prompt="12", stop=["3"], logit_bias={"5": "1.5"})
    assert (asked.prompts, asked.stops) == (["12"], ("3",))
    assert asked.sampling(0, DEFAULTS).logit_bias == {5: 1.5}
    assert chat(messages=[{"role": "user", "content": "4.0"}]).messages[0]["content"] == "4.0"


def test_a_negative_top_k_is_off_and_a_high_temperature_is_allowed() -> None:
    for given, top_k in ((-1, 0), (-5, 0), (0, 0), (7, 7)):
        assert completion(top_k=given).sampling(0, SamplingParams(top_k=20)).top_k == top_k
    assert completion().sampling(0, SamplingParams(top_k=20)).top_k == 20
    assert completion(temperature=3).sampling(0, DEFAULTS).temperature == 3


def test_the_seed_minus_one_asks_for_a_fresh_one() -> None:
    assert [completion(seed=-1, n=2).sampling(choice, DEFAULTS).seed for choice in (0, 1)] == [None, None]
    assert [completion(seed=-2, n=2).sampling(choice, DEFAULTS).seed for choice in (0, 1)] == [-2, -1]
    assert completion(seed=0).sampling(0, DEFAULTS).seed == 0


def test_llama_cpps_name_of_the_repetition_penalty() -> None:
    assert completion(repeat_penalty=1.2).sampling(0, DEFAULTS).repetition_penalty == 1.2
    assert completion(repeat_penalty=1.2, repetition_penalty=1.1).sampling(0, DEFAULTS).repetition_penalty == 1.1
    assert completion().sampling(0, SamplingParams(repetition_penalty=1.3)).repetition_penalty == 1.3


@pytest.mark.parametrize(
    ("priority", "urgency"),
    [(0, Priority.INTERACTIVE), (-3, Priority.INTERACTIVE), (1, Priority.BATCH), ("batch", Priority.BATCH)],
)
def test_vllms_priority_is_a_number(priority: object, urgency: Priority) -> None:
    assert chat(priority=priority).urgency is urgency


def test_null_in_the_options_of_a_stream_is_not_given() -> None:
    assert not chat(stream=True, stream_options={"include_usage": None}).include_usage
    assert not chat(stream=True, stream_options={}).include_usage
    assert chat(stream=True, stream_options={"include_usage": True, "include_obfuscation": False}).include_usage


def test_no_alternatives_need_no_log_probabilities() -> None:
    assert chat(logprobs=False, top_logprobs=0).alternatives is None
    assert chat(logprobs=True, top_logprobs=0).alternatives == 0
    with pytest.raises(RequestError, match="top_logprobs needs"):
        assert chat(top_logprobs=1).alternatives


@pytest.mark.parametrize(
    ("fields", "kind", "source", "param"),
    [
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, Kind.SCHEMA, SCHEMA, "response_format"),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, Kind.SCHEMA, SCHEMA, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            *(Kind.SCHEMA, SCHEMA, "response_format"),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            *(Kind.SCHEMA, {"type": "object"}, "response_format"),
        ),
        ({"response_format": {"type": "json_object"}}, Kind.SCHEMA, {"type": "object"}, "response_format"),
        ({"json_schema": SCHEMA}, Kind.SCHEMA, SCHEMA, "json_schema"),
        ({"guided_json": SCHEMA}, Kind.SCHEMA, SCHEMA, "guided_json"),
        ({"guided_json": json.dumps(SCHEMA)}, Kind.SCHEMA, SCHEMA, "guided_json"),
        ({"guided_regex": "a+"}, Kind.REGEX, "a+", "guided_regex"),
        ({"guided_choice": ["a", "b"]}, Kind.CHOICE, ["a", "b"], "guided_choice"),
        ({"guided_grammar": "x"}, Kind.GRAMMAR, "x", "guided_grammar"),
        ({"grammar": "x"}, Kind.GRAMMAR, "x", "grammar"),
        ({"structured_outputs": {"json": SCHEMA}}, Kind.SCHEMA, SCHEMA, "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}}, Kind.REGEX, "a", "structured_outputs"),
        ({"structured_outputs": {"choice": ["a"]}}, Kind.CHOICE, ["a"], "structured_outputs"),
        ({"structured_outputs": {"grammar": "x"}}, Kind.GRAMMAR, "x", "structured_outputs"),
        ({"structured_outputs": {"json_object": True}}, Kind.SCHEMA, {"type": "object"}, "structured_outputs"),
    ],
)
def test_a_structure_in_the_words_of_each_server(
    fields: dict[str, Any], kind: Kind, source: object, param: str
) -> None:
    for structure in (chat(**fields).prescribed, completion(**fields).prescribed):
        assert structure is not None
        assert (structure.kind, structure.source, structure.param) == (kind, source, param)


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {},
            {"grammar": ""},
            {"response_format": {"type": "text"}},
            {"guided_choice": []},
            {"structured_outputs": {}},
        ),
        *(
            {"guided_regex": ""},
            {"guided_grammar": ""},
            {"guided_json": None},
            {"structured_outputs": {"json": None, "json_object": False}},
        ),
        {"response_format": {"type": "text", "json_schema": None}, "guided_regex": None},
    ],
)
def test_no_structure_is_prescribed(fields: dict[str, Any]) -> None:
    assert chat(**fields).prescribed is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "a", "grammar": "b"}, "grammar"),
        ({"response_format": {"type": "json_object"}, "guided_json": SCHEMA}, "guided_json"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs"),
        ({"guided_json": "not JSON"}, "guided_json"),
        ({"guided_json": "[1]"}, "guided_json"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"guided_regex": "a", "ignore_eos": True}, "guided_regex"),
        ({"guided_regex": "a", "min_tokens": 1}, "guided_regex"),
    ],
)
def test_a_structure_that_cannot_be_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError, match=r"\.$") as caught:
        assert chat(**fields).prescribed
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_field_that_would_change_the_answer_is_refused_by_its_name(name: str) -> None:
    for make in (chat, completion):
        for value in (None, *REFUSED[name]):
            make(**{name: value})
        with pytest.raises(RequestError, match=f"^{name} is not supported\\. .*\\.$") as caught:
            make(**{name: ["other", 0.5]})
        assert (caught.value.status, caught.value.param) == (400, name)


def test_all_stop_strings_together_are_bounded() -> None:
    assert len(completion(stop=["x" * 512] * 8).stops) == 8
    with pytest.raises(RequestError, match=r"and 4096 in all\.$") as caught:
        assert completion(stop=["x" * 512] * 8 + ["y"]).stops
    assert caught.value.param == "stop"


@pytest.mark.parametrize("field", ["reasoning_budget", "thinking_token_budget", "prompt_logprobs"])
def test_a_zero_that_asks_for_something_is_not_nothing(field: str) -> None:
    assert chat(**{field: False}).limit is None
    with pytest.raises(RequestError, match=f"^{field} is not supported"):
        chat(**{field: 0})


@pytest.mark.parametrize("field", ["messages", "tools", "top_logprobs", "continue_final_message", "add_special_tokens"])
def test_what_only_chats_have_is_refused_for_completions(field: str) -> None:
    fields = {"top_logprobs": {"top_logprobs": msgspec.Raw(b"2")}, "add_special_tokens": {field: msgspec.Raw(b"false")}}
    given = fields.get(field, {field: msgspec.Raw(b'["x"]')})
    with pytest.raises(RequestError, match=f"^{field} is not supported\\. .*\\.$"):
        refuse_unsupported(given, REFUSED_FOR_COMPLETIONS)
    refuse_unsupported({field: msgspec.Raw(b"null")}, REFUSED_FOR_COMPLETIONS)


def test_completions_may_say_whether_they_want_log_probabilities() -> None:
    assert [completion(logprobs=wish).alternatives for wish in (False, True, 0, 3, None)] == [None, 0, 0, 3, None]


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens", "n_predict", "num_predict"])
def test_the_limit_has_a_name_of_each_server(name: str) -> None:
    assert (chat(**{name: 5}).limit, completion(**{name: 5}).limit) == (5, 5)
    assert completion(**{"n_predict": 7, "max_tokens": 3}).limit == 3
    assert chat(**{name: 5}, max_completion_tokens=9).limit == 9


def test_llama_cpps_form_of_biases() -> None:
    assert completion(logit_bias=[[5, 1.5], [7, False], [9, -2]])._bias == {5: 1.5, 7: -100, 9: -2}
    assert completion(logit_bias=[])._bias == completion(logit_bias={})._bias == {}
    for wrong in ([[5]], [["x", 1]], [[5, 101]], [[-1, 1]], [5]):
        with pytest.raises(RequestError) as caught:
            assert completion(logit_bias=wrong)._bias
        assert caught.value.param == "logit_bias"


def test_text_of_special_tokens_cannot_be_asked_for() -> None:
    assert completion(skip_special_tokens=True).limit == 16
    with pytest.raises(RequestError, match=r"^skip_special_tokens is not supported\. Leave it out\.$"):
        completion(skip_special_tokens=False)


RAIN, SUN = ({"type": "function", "name": name, "parameters": {"type": "object"}} for name in ("rain", "sun"))
NESTED = {"type": "function", "function": {"name": "sun"}}


def names(tools: list[Tool]) -> list[str]:
    return [tool.function.name for tool in tools]


@pytest.mark.parametrize(
    ("choice", "offered", "demanded", "once"),
    [
        ({"type": "function", "name": "sun"}, ["rain", "sun"], ["sun"], True),
        ({"type": "auto"}, ["rain", "sun"], [], False),
        ({"type": "none"}, [], [], False),
        ({"type": "required"}, ["rain", "sun"], ["rain", "sun"], False),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NESTED]}}, ["sun"], [], False),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NESTED]}}, ["sun"], ["sun"], False),
        ({"type": "allowed_tools", "mode": "required", "tools": [RAIN]}, ["rain"], ["rain"], False),
        ({"type": "allowed_tools", "tools": []}, [], [], False),
    ],
)
def test_tools_in_the_form_of_responses(choice: Any, offered: list[str], demanded: list[str], once: bool) -> None:
    asked = chat(tools=[RAIN, {"type": "function", "function": {"name": "sun"}}], tool_choice=choice)
    assert (names(asked.offered), names(asked.demanded), asked.calls_once) == (offered, demanded, once)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [RAIN], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [RAIN], "tool_choice": {"type": "function", "name": "snow"}}, "tool_choice"),
        ({"tools": [RAIN], "tool_choice": {"type": "allowed_tools", "mode": "required"}}, "tool_choice"),
        ({"tools": [RAIN], "tool_choice": {"type": "allowed_tools", "tools": [NESTED]}}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
    ],
)
def test_a_tool_without_a_name_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError, match=r"\.$") as caught:
        assert chat(**fields).offered == chat(**fields).demanded
    assert (caught.value.status, caught.value.param) == (400, param)


def test_hints_are_ignored() -> None:
    hints = {"user": "me", "store": True, "metadata": {"a": "b"}, "verbosity": "low"}
    assert chat(**hints, safety_identifier="x", prompt_cache_key="y", cache_prompt=True).limit is None


def test_best_of_is_the_number_of_answers_or_refused() -> None:
    assert completion(best_of=1).choices == chat(best_of=1).choices == 1
    assert completion(best_of=3, n=3).choices == 3
    with pytest.raises(RequestError, match=r"^best_of is not supported: ") as caught:
        assert completion(best_of=3, n=2).choices
    assert caught.value.param == "best_of"


def test_a_hundred_prompts_and_more_are_one_request() -> None:
    assert len(completion(prompt=["a"] * 2048).prompts) == 2048
    assert completion(prompt=[[1, 2]] * 100).prompts == [[1, 2]] * 100
