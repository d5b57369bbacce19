"""Tools and calls in plain words, for chat templates that know nothing of them, and ids and arguments as others want
them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from potluck.coordinator.text.calls.dialect import Dialect

Message = dict[str, Any]
Chat = list[Message]

_OFFER = """\
You can call these functions, whose parameters are JSON schemas:
{functions}

To call a function, answer with nothing but:
{example}
Put its name and its arguments in their places. What it returns is told to you then. If you need no function, answer in
plain words."""


def offered(tools: Any, dialect: Dialect) -> str:
    """What the model is told of tools, in OpenAI's form, that its template does not present."""
    listed = tools if isinstance(tools, list) else [tools]
    functions = "\n".join(_as_json(tool.get("function", tool) if isinstance(tool, dict) else tool) for tool in listed)
    return _OFFER.format(functions=functions, example=dialect.example())


def told_of(chat: Chat, offer: str) -> Iterator[Chat]:
    """The chat with the offer in the system's message, and in the user's, for templates that have no other."""
    for role in ("system", "user"):
        place = next((index for index, message in enumerate(chat) if message["role"] == role), None)
        if place is None:
            yield [{"role": role, "content": offer}, *chat]
        else:
            texts = (chat[place]["content"], offer) if role == "system" else (offer, chat[place]["content"])
            together = {**chat[place], "content": "\n\n".join(text for text in texts if text)}
            yield [*chat[:place], together, *chat[place + 1 :]]


def in_words(chat: Chat) -> Chat:
    """The chat with its calls in the text of the assistant, and their results in that of the user."""
    names: dict[str, Any] = {}
    told: Chat = []
    results: list[str] = []
    for message in chat:
        if message["role"] in ("tool", "function"):
            name = names.get(str(message.get("tool_call_id")), message.get("name"))
            results.append(f"{name or 'The function'} returned:\n{message['content']}")
            continue
        if results and message["role"] == "user":  # many templates refuse two messages of one role in a row
            message = {**message, "content": "\n\n".join([*results, message["content"]])}
        elif results:
            told.append({"role": "user", "content": "\n\n".join(results)})
        results = []
        names |= {str(call.get("id")): call["function"].get("name") for call in message.get("tool_calls", ())}
        told.append(_with_calls_in_text(message))
    return [*told, {"role": "user", "content": "\n\n".join(results)}] if results else told


def _with_calls_in_text(message: Message) -> Message:
    if "tool_calls" not in message:
        return message
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    calls = [_as_json(_named(call)) for call in message["tool_calls"]]
    return {**rest, "content": "\n".join(text for text in (message["content"], *calls) if text)}


def _named(call: Any) -> dict[str, Any]:
    return {name: call["function"].get(name) for name in ("name", "arguments")}


def with_fitting_ids(message: Message, dialect: Dialect) -> Message:
    """The message with the ids of its calls, or of the call that it answers, as the template wants them."""
    if isinstance(message.get("tool_call_id"), str):
        message = {**message, "tool_call_id": dialect.fitted(message["tool_call_id"])}
    if "tool_calls" in message:
        calls = [
            {**call, "id": dialect.fitted(call["id"])} if isinstance(call.get("id"), str) else call
            for call in message["tool_calls"]
        ]
        message = {**message, "tool_calls": calls}
    return message


def with_arguments_as_text(chat: Chat) -> Chat:
    """The chat with the arguments of its calls as text, which some templates put between other texts."""
    return [
        {
            **message,
            "tool_calls": [
                {**call, "function": {**call["function"], "arguments": _as_json(call["function"]["arguments"])}}
                for call in message["tool_calls"]
            ],
        }
        if "tool_calls" in message
        else message
        for message in chat
    ]


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
