"""Chats with tools, for templates that know nothing of tools, or want them in another form."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.calls import read
from potluck.coordinator.text.calls.registry import dialect_named
from potluck.coordinator.text.calls.words import in_words, offered
from potluck.coordinator.text.template import PLAIN, ChatTemplate
from potluck.errors import RequestError

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
DEAF = "{% for message in messages %}{% if message.role != 'system' %}[{{ message.content }}]{% endif %}{% endfor %}"
ALTERNATING = (
    "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}[{{ message.content }}]{% endfor %}"
)

TOOL: Any = {"type": "function", "function": {"name": "rain", "parameters": {"type": "object"}}}
QUESTION: Any = {"role": "user", "content": "Will it rain in Köln, or in Rome?"}


def called(identity: str, city: str) -> dict[str, Any]:
    function = {"name": "rain", "arguments": json.dumps({"city": city})}
    return {"id": identity, "type": "function", "function": function}


HISTORY: list[Any] = [
    QUESTION,
    {"role": "assistant", "content": "I look.", "tool_calls": [called("call_1", "Köln"), called("call_2", "Rome")]},
    {"role": "tool", "tool_call_id": "call_1", "content": "Yes."},
    {"role": "tool", "tool_call_id": "call_2", "content": "No."},
]


@pytest.mark.parametrize("source", [None, CHATML, NO_SYSTEM + CHATML, DEAF])
def test_a_model_whose_template_has_no_tools_is_told_of_them(source: str | None) -> None:
    prompt = ChatTemplate(source).render([QUESTION], tools=[TOOL])
    assert '{"name": "rain", "parameters": {"type": "object"}}' in prompt
    assert '{"name": "NAME", "arguments": {…}}' in prompt
    assert prompt.index(QUESTION["content"]) > prompt.index("NAME")
    assert prompt.count("rain") == 2  # it is told once


def test_it_is_told_in_the_system_message_that_is_there() -> None:
    prompt = ChatTemplate(CHATML).render([{"role": "system", "content": "Be brief."}, QUESTION], tools=[TOOL])
    assert prompt.startswith("<|im_start|>system\nBe brief.\n\nYou can call these functions")
    assert prompt.count("<|im_start|>system") == 1


def test_a_template_that_presents_tools_is_left_alone() -> None:
    assert ChatTemplate("{{ messages | length }}{{ tools | length }}").render([QUESTION], tools=[TOOL]) == "11"


@pytest.mark.parametrize("source", [CHATML, ALTERNATING, None])
def test_calls_and_results_become_text_that_any_template_takes(source: str | None) -> None:
    prompt = ChatTemplate(source).render([*HISTORY, {"role": "user", "content": "And now?"}])
    written = (
        'I look.\n{"name": "rain", "arguments": {"city": "Köln"}}\n{"name": "rain", "arguments": {"city": "Rome"}}'
    )
    assert written in prompt
    assert "rain returned:\nYes.\n\nrain returned:\nNo.\n\nAnd now?" in prompt


def test_results_at_the_end_or_before_the_assistant_are_a_users_message() -> None:
    result = {"role": "function", "name": "f", "content": "1"}
    told = {"role": "user", "content": "f returned:\n1"}
    hello, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}
    assert in_words([result]) == [told]
    assert in_words([hello, result, answer]) == [hello, told, answer]


def test_what_is_told_is_read_as_a_call() -> None:
    """A model that repeats what its history shows calls the tool."""
    call = {"function": {"name": "rain", "arguments": {}}}
    [assistant] = in_words([{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert read([assistant["content"]]) == ("", [("rain", "{}")], True)


def test_a_template_that_wants_arguments_as_text_gets_them_so() -> None:
    source = (
        "{% for message in messages %}{% for call in message.tool_calls %}"
        "{{ call.function.name + ':' + call.function.arguments + ';' }}{% endfor %}{% endfor %}"
    )
    assert ChatTemplate(source).render(HISTORY) == 'rain:{"city": "Köln"};rain:{"city": "Rome"};'


def test_a_template_that_wants_ids_of_nine_characters_gets_them_so() -> None:
    source = (
        "{# [TOOL_CALLS] #}{% for message in messages %}{% for call in message.tool_calls %}{{ call.id }},{% endfor %}"
        "{% if message.role == 'tool' %}{% if message.tool_call_id | length != 9 %}{{ raise_exception('9!') }}"
        "{% endif %}{{ message.tool_call_id }},{% endif %}{% endfor %}"
    )
    one, other, *answered = ChatTemplate(source).render(HISTORY).strip(",").split(",")
    assert one != other
    assert answered == [one, other]


def test_a_template_that_refuses_the_chat_in_every_way_says_why() -> None:
    with pytest.raises(RequestError, match="Roles must alternate"):
        ChatTemplate(ALTERNATING).render([QUESTION, QUESTION], tools=[TOOL])


@pytest.mark.parametrize("name", ["generic", "deepseek", "coder", "glm", "pythonic", "mistral", "hermes"])
def test_every_dialect_can_be_told(name: str) -> None:
    assert "NAME" in offered([TOOL], dialect_named(name))


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=3)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "tool", "function"])},
            optional={
                "content": st.text() | st.none(),
                "tool_call_id": JSON,
                "name": JSON,
                "tool_calls": st.lists(
                    st.fixed_dictionaries({"id": JSON, "function": st.fixed_dictionaries({"name": st.text()})})
                ),
            },
        )
    ),
    JSON,
)
def test_any_history_is_rendered(chat: list[Any], tools: Any) -> None:
    assert ChatTemplate(PLAIN).render(chat, tools=tools).endswith("Assistant:")
