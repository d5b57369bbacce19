"""Whatever a client may send is answered or refused in a sentence, and a history reads the same in every form."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.http.doors.messages_request import MessagesRequest
from potluck.coordinator.http.doors.responses_request import ResponsesRequest
from potluck.coordinator.http.parsing import parse
from potluck.coordinator.http.requests import ChatRequest
from potluck.coordinator.text.template import ChatTemplate
from potluck.errors import RequestError

TEMPLATE = ChatTemplate(
    "{% for message in messages %}{{ message.role }}: {{ message.content }}{% for call in message.tool_calls or [] %}"
    "{{ call.function.name }}{% for name, value in call.function.arguments.items() %}{{ name }}{{ value }}{% endfor %}"
    "{% endfor %}{% endfor %}"
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NAMES = st.sampled_from(
    [
        *("type", "role", "content", "text", "input", "name", "id", "call_id", "tool_use_id", "arguments", "output"),
        *("source", "data", "is_error", "tools", "mode", "edits", "format", "schema", "effort", "summary", "refusal"),
    ]
)
KINDS = st.sampled_from(
    [
        *("text", "input_text", "output_text", "refusal", "image", "document", "tool_use", "tool_result", "thinking"),
        *("message", "function_call", "function_call_output", "reasoning", "item_reference", "function"),
        *("allowed_tools", "json_schema", "json_object", "auto", "any", "tool", "none", "enabled", "custom"),
        *("user", "assistant", "system", "developer", "{}", "[]"),
    ]
)
VALUES = st.recursive(
    SCALARS | KINDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=5),
    max_leaves=12,
)
ITEMS = st.lists(st.dictionaries(NAMES, VALUES, max_size=6), max_size=5)


def bodies(kind: Any, content: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies with this content, and a few other fields."""
    others = st.dictionaries(st.sampled_from(sorted({*kind.__struct_fields__} - {content})), VALUES, max_size=2)
    return st.builds(lambda given, others: {content: given, **others}, values, others)


def rendered(chat: Any) -> str:
    """The prompt that a request for a chat makes."""
    asked = parse(msgspec.json.encode(chat), ChatRequest)
    return TEMPLATE.render(asked.messages)


@given(bodies(MessagesRequest, "messages", ITEMS))
def test_a_message_is_read_or_refused(body: dict[str, Any]) -> None:
    with suppress(RequestError):
        rendered(parse(msgspec.json.encode(body), MessagesRequest).chat())


@given(bodies(ResponsesRequest, "input", ITEMS | VALUES))
def test_a_response_is_read_or_refused(body: dict[str, Any]) -> None:
    with suppress(RequestError):
        asked = parse(msgspec.json.encode(body), ResponsesRequest)
        rendered(asked.chat(asked.history([]).messages))
        msgspec.json.encode(asked.echo())


TEXTS = st.text(alphabet="ab ", min_size=1, max_size=3)
TURNS = st.lists(
    st.tuples(st.just("say"), st.sampled_from(("user", "assistant")), TEXTS)
    | st.tuples(st.just("call"), st.sampled_from("xyz"), st.dictionaries(TEXTS, TEXTS, max_size=2)),
    min_size=1,
    max_size=8,
)


def in_messages(turns: list[Any]) -> list[Any]:
    messages: list[Any] = []
    for kind, who, what in turns:
        if kind == "say":
            messages.append({"role": who, "content": [{"type": "text", "text": what}]})
        else:
            use = {"type": "tool_use", "id": who, "name": f"f{who}", "input": what}
            messages.append({"role": "assistant", "content": [use]})
            messages.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": who, "content": "k"}]})
    told: list[Any] = parse(msgspec.json.encode({"messages": messages}), MessagesRequest).chat()["messages"]
    return told


def in_responses(turns: list[Any], before: list[Any] | None = None) -> list[Any]:
    """The messages of the chat. before: those of the requests before."""
    items: list[Any] = []
    for kind, who, what in turns:
        if kind == "say":
            items.append({"role": who, "content": what})
        else:
            arguments = msgspec.json.encode(what).decode()
            items.append({"type": "function_call", "call_id": who, "name": f"f{who}", "arguments": arguments})
            items.append({"type": "function_call_output", "call_id": who, "output": "k"})
    return parse(msgspec.json.encode({"input": items}), ResponsesRequest).history(before or []).messages


@given(TURNS)
def test_a_history_is_the_same_at_both_doors(turns: list[Any]) -> None:
    assert in_messages(turns) == in_responses(turns)


@given(TURNS)
def test_nobody_speaks_twice_in_a_row(turns: list[Any]) -> None:
    roles = [message["role"] for message in in_messages(turns)]
    assert all(one != other for one, other in pairwise(roles) if one != "tool")


@given(TURNS, TURNS)
def test_a_conversation_in_two_requests_is_that_of_one(before: list[Any], after: list[Any]) -> None:
    assert in_responses(after, in_responses(before)) == in_responses([*before, *after])


@pytest.mark.parametrize("edits", [5, "x", {"type": "clear_thinking"}])
def test_edits_that_are_no_list_are_refused(edits: Any) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "context_management": {"edits": edits}}
    with pytest.raises(RequestError, match="must be a list"):
        parse(msgspec.json.encode(body), MessagesRequest).chat()
