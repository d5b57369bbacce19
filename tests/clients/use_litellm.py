"""LiteLLM, as its users write it. Prints what it was told as JSON.

Arguments: the API's address, the model's name.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Literal

import litellm
from pydantic import BaseModel, ConfigDict

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = [{"role": "user", "content": "What is the weather in Cologne?"}]


class Capital(BaseModel):
    """A capital, and whether that is certain."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["Paris", "Rome"]
    certain: bool


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def weather(city: str) -> str:
    return f"It rains in {city}."


def calls_of(reply: litellm.ModelResponse) -> list[dict]:
    calls = reply.choices[0].message.tool_calls or []
    return [{"name": call.function.name, "arguments": json.loads(call.function.arguments)} for call in calls]


litellm.suppress_debug_info = True  # it would be printed among what is told


def main(url: str, name: str) -> None:
    place = {"api_base": url, "api_key": "none", "num_retries": 0}
    ask = partial(litellm.completion, model=f"openai/{name}", temperature=0, max_tokens=60, **place)
    whole, chunks = ask(messages=QUESTION), list(ask(messages=QUESTION, stream=True))
    streamed = litellm.stream_chunk_builder(chunks, messages=QUESTION)
    called = ask(messages=WEATHER, tools=[TOOL])
    said = called.choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": weather(**json.loads(call.function.arguments))}
        for call in said.tool_calls
    ]
    streamed_call = litellm.stream_chunk_builder(list(ask(messages=WEATHER, tools=[TOOL], stream=True)))
    last = ask(messages=[*WEATHER, said, *results], tools=[TOOL])
    structured = ask(messages=QUESTION, response_format=Capital)
    text = litellm.text_completion(
        model=f"text-completion-openai/{name}", prompt="Once upon a time", temperature=0, max_tokens=16, **place
    )
    told = {
        "chat": whole.choices[0].message.content,
        "streamed": streamed.choices[0].message.content,
        "tokens": whole.usage.completion_tokens,
        "text": text.choices[0].text,
        "calls": calls_of(called),
        "streamed_calls": calls_of(streamed_call),
        "last": last.choices[0].message.content,
        "structured": [json.loads(structured.choices[0].message.content)],
    }
    json.dump(told, sys.stdout)


main(*sys.argv[1:])
