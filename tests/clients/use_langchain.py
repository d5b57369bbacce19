"""LangChain, as its users write it. Prints what it was told as JSON.

Arguments: the API's address, the model's name.
"""

from __future__ import annotations

import json
import sys
from typing import Literal

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict

QUESTION = "What is the capital of France?"
WEATHER = "What is the weather in Cologne?"


class Capital(BaseModel):
    """A capital, and whether that is certain."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["Paris", "Rome"]
    certain: bool


def weather(city: str) -> str:
    """Tells the weather in a city."""
    return f"It rains in {city}."


WEATHER_TOOL = tool(weather)


def answered(model: ChatOpenAI) -> tuple[list[dict], str]:
    """The calls of a tool, and the answer that the model gives with what the tool said."""
    taught = model.bind_tools([WEATHER_TOOL])
    messages: list[BaseMessage] = [HumanMessage(WEATHER)]
    calls = []
    while (reply := taught.invoke(messages)).tool_calls:
        calls += [{"name": call["name"], "arguments": call["args"]} for call in reply.tool_calls]
        messages += [reply, *map(WEATHER_TOOL.invoke, reply.tool_calls)]
    return calls, reply.content


def main(url: str, name: str) -> None:
    place = {"base_url": url, "model": name, "api_key": "none", "temperature": 0, "max_retries": 0}
    model = ChatOpenAI(max_tokens=60, stream_usage=True, **place)
    whole, chunks = model.invoke(QUESTION), list(model.stream(QUESTION))
    streamed = sum(chunks[1:], chunks[0])
    calls, last = answered(model)
    called = list(model.bind_tools([WEATHER_TOOL]).stream(WEATHER))
    forms = ("json_schema", "function_calling")
    told = {
        "chat": whole.content,
        "streamed": streamed.content,
        "tokens": streamed.usage_metadata["output_tokens"],
        "text": OpenAI(max_tokens=16, **place).invoke("Once upon a time"),
        "calls": calls,
        "streamed_calls": [
            {"name": call["name"], "arguments": call["args"]} for call in sum(called[1:], called[0]).tool_calls
        ],
        "last": last,
        "structured": [
            model.with_structured_output(Capital, method=form).invoke(QUESTION).model_dump() for form in forms
        ],
    }
    json.dump(told, sys.stdout)


main(*sys.argv[1:])
