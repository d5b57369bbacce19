"""LlamaIndex, as its users write it. Prints what it was told as JSON.

Arguments: the API's address, the model's name.
"""

from __future__ import annotations

import json
import sys
from typing import Literal

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, ConfigDict

QUESTION = [ChatMessage(role="user", content="What is the capital of France?")]
WEATHER = ChatMessage(role="user", content="What is the weather in Cologne?")


class Capital(BaseModel):
    """A capital, and whether that is certain."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["Paris", "Rome"]
    certain: bool


def weather(city: str) -> str:
    """Tells the weather in a city."""
    return f"It rains in {city}."


def calls_of(model: OpenAILike, reply: ChatResponse) -> list[dict]:
    calls = model.get_tool_calls_from_response(reply, error_on_no_tool_call=False)
    return [{"name": call.tool_name, "arguments": call.tool_kwargs} for call in calls]


def main(url: str, name: str) -> None:
    place = {
        "api_base": url,
        "model": name,
        "api_key": "none",
        "temperature": 0,
        "max_retries": 0,
        "context_window": 4096,
    }
    model = OpenAILike(is_chat_model=True, is_function_calling_model=True, max_tokens=60, **place)
    tool = FunctionTool.from_defaults(weather)
    whole = model.chat(QUESTION)
    called = model.chat_with_tools([tool], user_msg=WEATHER)
    *_, streamed_call = model.stream_chat_with_tools([tool], user_msg=WEATHER)
    results = [
        ChatMessage(role="tool", content=weather(**call.tool_kwargs), additional_kwargs={"tool_call_id": call.tool_id})
        for call in model.get_tool_calls_from_response(called)
    ]
    last = model.chat_with_tools([tool], chat_history=[WEATHER, called.message, *results])
    told = {
        "chat": whole.message.content,
        "streamed": "".join(part.delta or "" for part in model.stream_chat(QUESTION)),
        "tokens": whole.raw.usage.completion_tokens,
        "text": OpenAILike(is_chat_model=False, max_tokens=16, **place).complete("Once upon a time").text,
        "calls": calls_of(model, called),
        "streamed_calls": calls_of(model, streamed_call),
        "last": last.message.content,
        "structured": [model.as_structured_llm(Capital).chat(QUESTION).raw.model_dump()],
    }
    json.dump(told, sys.stdout)


main(*sys.argv[1:])
