"""Tool calls by the official client, against SmolLM2 on three nodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from potluck.local import LocalSwarm

QUESTION = {"role": "user", "content": "Will it rain in Cologne?"}
CITY = {"type": "object", "properties": {"city": {"enum": ["Cologne", "Rome"]}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "rain", "description": "Asks the weather.", "parameters": CITY}}
CALL = {
    "type": "object",
    "properties": {"name": {"const": "rain"}, "parameters": {**CITY, "additionalProperties": False}},
    "required": ["name", "parameters"],
    "additionalProperties": False,
}
"""This little model calls no tools by itself, so that its words are prescribed."""


@pytest.fixture
def chat(client: openai.OpenAI, name: str) -> Callable[..., Any]:
    form = {"type": "json_schema", "json_schema": {"name": "call", "schema": CALL}}
    options = {"model": name, "messages": [QUESTION], "tools": [TOOL], "response_format": form, "temperature": 0}
    return lambda **changes: client.chat.completions.create(**options | changes)


def test_a_call_whole_and_streamed_and_its_answer(chat: Callable[..., Any], client: openai.OpenAI, name: str) -> None:
    [choice] = chat().choices
    [call] = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert call.function.name == "rain"
    assert json.loads(call.function.arguments).keys() == {"city"}
    chunks = [choice for chunk in chat(stream=True) for choice in chunk.choices]
    [streamed] = [call for choice in chunks for call in choice.delta.tool_calls or []]
    assert (streamed.index, streamed.function.arguments) == (0, call.function.arguments)
    assert chunks[-1].finish_reason == "tool_calls"
    told = {"role": "tool", "tool_call_id": call.id, "content": "No."}
    messages = [QUESTION, choice.message.model_dump(exclude_none=True), told]
    [after] = client.chat.completions.create(model=name, messages=messages, tools=[TOOL], max_tokens=5).choices
    assert after.message.content


@pytest.mark.parametrize("changes", [{"tools": openai.omit}, {"tool_choice": "none"}])
def test_where_no_tool_may_be_called_all_is_text(chat: Callable[..., Any], changes: dict[str, Any]) -> None:
    [choice] = chat(**changes).choices
    assert choice.message.tool_calls is None
    assert json.loads(choice.message.content)["name"] == "rain"


@pytest.mark.parametrize(
    ("changes", "param"),
    [({"tools": [{"type": "magic"}]}, "tools"), ({"tool_choice": "required"}, "tool_choice")],
)
def test_what_is_no_tool_or_cannot_be_promised_is_refused(
    chat: Callable[..., Any], changes: dict[str, Any], param: str, smol: LocalSwarm
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(**changes)
    assert caught.value.param == param
