import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.text.messages import ROLES, template_message
from potluck.coordinator.text.template import PLAIN, ChatTemplate
from potluck.errors import RequestError

TOOL_USE = """\
{%- for m in messages %}[{{ m.role }}|{{ m.content }}
{%- if m.tool_calls is defined %}{% for c in m.tool_calls %}|{{ c.function.name }}{{ c.function.arguments | tojson }}
{%- endfor %}{% endif %}]
{%- endfor %}"""
"""Asks whether there are calls as Llama's and others do, by the presence of the field."""


def assistant(**fields: Any) -> str:
    return ChatTemplate(TOOL_USE).render([{"role": "assistant", **fields}])


def called(arguments: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}])
def test_a_message_may_be_empty(role: str, content: dict[str, Any]) -> None:
    assert template_message(0, {"role": role, **content}) == {"role": role, "content": ""}


@pytest.mark.parametrize("name", ["tool_calls", "function_call", "refusal", "audio", "annotations", "name"])
@pytest.mark.parametrize("empty", [None, []])
def test_empty_fields_are_absent(name: str, empty: object) -> None:
    given_message = {"role": "assistant", "content": "b", name: empty}
    assert template_message(0, given_message) == {"role": "assistant", "content": "b"}
    assert assistant(content="b", **{name: empty}) == "[assistant|b]"


@pytest.mark.parametrize("arguments", ["", " \n", None, "{}", "null", {}])
def test_blank_arguments_are_an_empty_object(arguments: object) -> None:
    assert assistant(content=None, tool_calls=[called(arguments)]) == "[assistant||f{}]"


def test_a_call_may_have_no_arguments_and_empty_fields() -> None:
    call = {"id": None, "index": 0, "function": {"name": "f"}}
    assert template_message(0, {"role": "assistant", "tool_calls": [call]})["tool_calls"] == [
        {"index": 0, "function": {"name": "f", "arguments": {}}}
    ]


def test_the_older_form_of_a_call_is_one_of_several() -> None:
    assert assistant(function_call={"name": "f", "arguments": '{"a": 1}'}) == '[assistant||f{"a": 1}]'
    both = assistant(function_call={"name": "f", "arguments": ""}, tool_calls=[called('{"a": 2}')])
    assert both == '[assistant||f{"a": 2}]'


@pytest.mark.parametrize(
    "arguments", ['{"x": ', "not json", '{"x":1,}', "{'x':1}", '{"a":1}{"b":2}', '{"x":NaN}', "[1]", "5"]
)
def test_arguments_that_are_no_object_stay_as_the_model_wrote_them(arguments: str) -> None:
    message = template_message(0, {"role": "assistant", "tool_calls": [called(arguments)]})
    assert message["tool_calls"][0]["function"]["arguments"] == {"raw_arguments": arguments}
    assert arguments in json.loads(assistant(tool_calls=[called(arguments)]).partition("|f")[2][:-1]).values()


def test_a_call_in_langchains_form() -> None:
    call = {"id": "c", "name": "f", "args": {"a": 1}, "type": "tool_call"}
    [told] = template_message(0, {"role": "assistant", "tool_calls": [call]})["tool_calls"]
    assert told == {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    [flat] = template_message(0, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a": 1}'}]})[
        "tool_calls"
    ]
    assert flat == {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


@pytest.mark.parametrize(
    ("calls", "told"),
    [
        ({"name": "f"}, "messages[0].tool_calls must be a list of calls."),
        ([called("{}"), 5], "messages[0].tool_calls[1] must be an object."),
        ([{"function": {}}], "messages[0].tool_calls[0] must name a function."),
        (
            [{"type": "custom", "custom": {"name": "f"}}],
            "messages[0].tool_calls[0] must call a function, not a custom tool.",
        ),
    ],
)
def test_what_is_no_call_is_refused_at_its_place(calls: object, told: str) -> None:
    with pytest.raises(RequestError) as caught:
        template_message(0, {"role": "assistant", "tool_calls": calls})
    assert str(caught.value) == told


@pytest.mark.parametrize("call", ["", "f", {"arguments": "{"}, [1]])
def test_an_older_call_that_is_none_is_refused_or_absent(call: object) -> None:
    if not call:
        assert assistant(content="b", function_call=call) == "[assistant|b]"
        return
    with pytest.raises(RequestError, match=r"^messages\[0\]\.tool_calls\[0\] must name a function\.$"):
        assistant(content="b", function_call=call)


def test_arguments_that_are_nested_too_deeply_are_refused() -> None:
    with pytest.raises(RequestError, match=r"arguments are nested too deeply\.$"):
        assistant(tool_calls=[called("[" * 200_000 + "]" * 200_000)])


@pytest.mark.parametrize(
    "part", [{"type": "text"}, {"type": "input_text"}, {"type": "output_text"}, {}, {"type": None}]
)
def test_parts_of_text_have_several_names(part: dict[str, Any]) -> None:
    parts = [{**part, "text": "one", "annotations": []}, "two", {**part, "text": None}]
    assert template_message(0, {"role": "user", "content": parts})["content"] == "one\ntwo\n"


def test_a_refusal_is_what_the_assistant_said() -> None:
    assert assistant(content=None, refusal="No.").startswith("[assistant|No.")
    assert assistant(content="Yes.", refusal="No.").startswith("[assistant|Yes.")
    assert assistant(content=[{"type": "refusal", "refusal": "No."}]) == "[assistant|No.]"
    assert assistant(content=None, refusal=5).startswith("[assistant|]")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "refusal", "function", "name", "arguments", "id"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
names = st.sampled_from(["content", "tool_calls", "function_call", "refusal", "tool_call_id", "name"])


@given(st.sampled_from(ROLES), st.dictionaries(names, values, max_size=4), st.sampled_from([TOOL_USE, PLAIN]))
def test_whatever_history_is_replayed_it_is_rendered_or_refused(role: str, rest: dict[str, Any], source: str) -> None:
    try:
        prompt = ChatTemplate(source).render([{"role": role, **rest}])
    except RequestError as error:
        prompt = str(error)
    assert prompt
