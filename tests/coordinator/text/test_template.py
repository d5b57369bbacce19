import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.text.calls.registry import dialect_named
from potluck.coordinator.text.template import ChatTemplate
from potluck.coordinator.text.thinking import Place
from potluck.errors import ModelError, RequestError

HELLO = [{"role": "user", "content": "Hello"}]
ECHO = "{% for m in messages %}[{{ m.role }}|{{ m.content }}]{% endfor %}"


def render(source: str | None, messages: list[dict[str, Any]] | None = None, **kwargs: Any) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render(messages or HELLO, **kwargs)


def test_the_plain_template_is_a_dialogue() -> None:
    messages = [
        {"role": "system", "content": "Be brief.\n"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
    ]
    dialogue = "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: Bye\n\n"
    assert render(None, messages) == dialogue + "Assistant:"
    assert render(None, messages, add_generation_prompt=False) == dialogue
    assert "\n\nUser:" in ChatTemplate(None).stops
    assert ChatTemplate(ECHO).stops == ()


def test_the_template_sees_special_tokens_and_further_variables() -> None:
    assert render("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ mood }}", mood="!") == "<s>Hello</s>!"
    assert render("{{ tools is none }} {{ documents is none }}") == "True True"
    assert render("{{ tools | length }}", tools=[{}, {}]) == "2"


def test_chats_with_tools_may_have_a_template_of_their_own() -> None:
    template = ChatTemplate("plain", tool_use='{{ tools | length }} "parameters" tool_calls')
    assert template.render(HELLO) == template.render(HELLO, tools=None) == "plain"
    assert template.render(HELLO, tools=[{}, {}]).startswith("2")
    assert template.calls is dialect_named("llama")
    with pytest.raises(ModelError, match="template is broken"):
        ChatTemplate("plain", tool_use="{% if")


def test_blocks_leave_no_white_space() -> None:
    assert render("{% if true %}\nyes\n    {% endif %}\nno") == "yes\nno"


def test_loops_can_break_and_continue() -> None:
    source = "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}"
    assert render(source + "{{ i }}{% endfor %}") == "023"


def test_tojson_keeps_html_and_unicode_as_they_are() -> None:
    assert render("{{ {'b': '<é> & \\'', 'a': 1} | tojson }}") == '{"b": "<é> & \'", "a": 1}'
    assert render("{{ [1] | tojson(indent=2) }}") == "[\n  1\n]"


def test_strftime_now() -> None:
    assert re.fullmatch(r"20\d\d", render("{{ strftime_now('%Y') }}"))


def test_the_generation_tag_renders_its_body() -> None:
    source = "{% for m in messages %}<{% generation %}{% set x = m.content %}{{ x }}{% endgeneration %}>{% endfor %}"
    assert render(source) == "<Hello>"


def test_raise_exception_refuses_the_conversation() -> None:
    with pytest.raises(RequestError, match=r"^No system role!$") as caught:
        render("{{ raise_exception('No system role!') }}")
    assert caught.value.param == "messages"


@pytest.mark.parametrize("source", ["{{ messages[9].content.strip() }}", "{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ x.y.z }}"])
def test_a_template_that_fails_over_the_messages_is_a_request_error(source: str) -> None:
    with pytest.raises(RequestError, match="cannot render these messages"):
        render(source)


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ messages[0].update(role='x') }}"]
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(RequestError, match="cannot render"):
        render(source)


def test_a_broken_template_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="chat template is broken"):
        ChatTemplate("{% for %}")


def test_text_parts_become_lines() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert render(ECHO, [{"role": "user", "content": parts}]) == "[user|one\ntwo]"


def test_an_assistant_that_called_tools_need_not_say_anything() -> None:
    call = {"id": "1", "function": {"name": "rain", "arguments": '{"city": "Köln"}'}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    source = ECHO + "{{ messages[0].tool_calls[0].id }} {{ messages[0].tool_calls[0].function.arguments | tojson }}"
    assert render(source, messages) == '[assistant|]1 {"city": "Köln"}'


@pytest.mark.parametrize("calls", [[{"id": "1"}], [5], 5, [{"function": {"name": 5, "arguments": "{}"}}]])
def test_calls_that_are_none_are_refused(calls: object) -> None:
    with pytest.raises(RequestError, match=r"^messages\[0\]\.tool_calls(\[0\])? must .*\.$"):
        render(ECHO, [{"role": "assistant", "content": None, "tool_calls": calls}])


def test_a_developer_is_the_system_to_templates_that_do_not_know_it() -> None:
    messages = [{"role": "developer", "content": "x"}]
    assert render(ECHO, messages) == "[system|x]"
    assert render(ECHO + "{# developer #}", messages) == "[developer|x]"


@pytest.mark.parametrize(
    "content",
    [
        7,
        {},
        {"type": "text", "text": "x"},
        [{"type": "image_url", "image_url": {"url": "x"}}],
        [{"type": "text"}],
        [{"type": "refusal", "text": "x"}],
        [{"type": "text", "text": 5}],
        [None],
        [{"type": "text", "text": "a"}, {"type": "input_audio"}],
    ],
)
def test_content_that_is_no_text_is_refused(content: object) -> None:
    with pytest.raises(RequestError, match=r"messages\[1\]\.content must be a string .* reads text only") as caught:
        render(ECHO, [*HELLO, {"role": "user", "content": content}])
    assert caught.value.param == "messages[1].content"


@pytest.mark.parametrize("message", [{}, {"role": "robot", "content": "x"}, {"role": None}, {"role": ["user"]}])
def test_a_role_that_does_not_exist_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"messages\[0\]\.role must be one of system, .*, not"):
        render(ECHO, [message])


def test_values_nested_deeper_than_json_can_be_written_are_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RequestError, match="cannot render these messages") as caught:
        render("{{ tools | tojson }}", tools=[{"type": deep}])
    assert caught.value.param == "messages"


def test_the_messages_of_the_caller_stay_as_they_are() -> None:
    messages = [{"role": "developer", "content": [{"type": "text", "text": "x"}]}]
    render(ECHO, messages)
    assert messages == [{"role": "developer", "content": [{"type": "text", "text": "x"}]}]


_WORDS = st.sampled_from(["", " ", "<think>", "</think>", "<think>hm</think>Yes.", "<think>hm", "Yes. "])
_ANY = st.recursive(st.none() | st.booleans() | st.integers() | _WORDS, lambda some: st.lists(some, max_size=2))
_PARTS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "thinking", "reasoning", "redacted_thinking"]) | _ANY},
        optional={"text": _ANY, "thinking": _ANY},
    ),
    max_size=3,
)
_MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant"])},
        optional={
            "content": _WORDS | _PARTS | _ANY,
            **dict.fromkeys(("reasoning_content", "reasoning", "thinking", "tool_calls"), _ANY),
        },
    ),
    min_size=1,
    max_size=3,
)
THINKS = ECHO + "{{ messages[0].reasoning_content }}{% if add_generation_prompt %}<think>\n{% endif %}"


@given(_MESSAGES, st.booleans(), st.booleans())
def test_whatever_a_client_replays_is_a_prompt_or_refused_in_a_sentence(
    messages: list[dict[str, Any]], prompts: bool, continues: bool
) -> None:
    template, refused, place = ChatTemplate(THINKS), "", None
    try:
        _, place = template.prompt(messages, add_generation_prompt=prompts, continue_final_message=continues)
    except RequestError as error:
        refused = str(error)
    assert refused.endswith(".") if place is None else refused == ""
    if place is not None and prompts and not continues:
        assert place is Place.OPENED
