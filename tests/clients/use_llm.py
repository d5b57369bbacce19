"""The library of the command `llm`, as its users write it. Prints what it was told as JSON.

Arguments: the API's address, the model's name.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import llm
from pydantic import BaseModel, ConfigDict

QUESTION = "What is the capital of France?"
WEATHER = "What is the weather in Cologne?"
STORY = "Once upon a time"


class Capital(BaseModel):
    """A capital, and whether that is certain."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["Paris", "Rome"]
    certain: bool


def weather(city: str) -> str:
    """Tells the weather in a city."""
    return f"It rains in {city}."


def main(url: str, name: str) -> None:
    place = {"model_name": name, "api_base": url}
    models = [
        {"model_id": "potluck", "supports_tools": True, "supports_schema": True, **place},
        {"model_id": "potluck-text", "completion": True, **place},
    ]
    (llm.user_dir() / "extra-openai-models.yaml").write_text(json.dumps(models))
    model: Any = llm.get_model("potluck")
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 60}
    whole = model.prompt(QUESTION, stream=False, **options)
    chains = [
        model.chain(WEATHER, tools=[weather], stream=stream, options=options, key="none") for stream in (False, True)
    ]
    said = [chain.text() for chain in chains]
    calls, streamed_calls = (
        [
            {"name": call.name, "arguments": call.arguments}
            for response in chain._responses
            for call in response.tool_calls()
        ]
        for chain in chains
    )
    told = {
        "chat": whole.text(),
        "streamed": "".join(model.prompt(QUESTION, **options)),
        "tokens": whole.usage().output,
        "text": llm.get_model("potluck-text").prompt(STORY, stream=False, temperature=0, max_tokens=16).text(),
        "calls": calls,
        "streamed_calls": streamed_calls,
        "last": said[1],
        "structured": [json.loads(model.prompt(QUESTION, schema=Capital, stream=False, **options).text())],
    }
    json.dump(told, sys.stdout)


main(*sys.argv[1:])
