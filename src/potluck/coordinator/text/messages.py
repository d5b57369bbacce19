"""Replayed history: turns the messages that any SDK may have written into the form that chat templates expect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from potluck.coordinator.text.thinking import gathered
from potluck.errors import RequestError

ROLES = ("system", "developer", "user", "assistant", "tool", "function")

TEXT_PARTS = ("text", "input_text", "output_text")
"""The types of a content part that is text: that of chats, and those of OpenAI's responses."""

_EMPTY: tuple[object, ...] = (None, [])
"""What SDKs write for fields that have no value. Templates ask whether such a field is there, not what it holds."""


def template_message(index: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """A message without its empty fields, with its content as text and the arguments of its calls as objects.

    index: its place, for errors. Raises RequestError when its role is unknown or it contains more than text.
    """
    role = given.get("role")
    if role not in ROLES:
        raise RequestError(
            f"messages[{index}].role must be one of {', '.join(ROLES)}, not {role!r}.",
            param=f"messages[{index}].role",
        )
    given = gathered(given) if role == "assistant" else given
    message = {name: value for name, value in given.items() if value not in _EMPTY}
    message["content"] = _content(index, message)
    called = message.pop("function_call", None)  # OpenAI's older form, of one call
    calls = message.pop("tool_calls", None) or ([{"type": "function", "function": called}] if called else [])
    return {**message, "tool_calls": _calls(index, calls)} if calls else message


def _content(index: int, message: Mapping[str, Any]) -> str:
    """The text of a message: its string, its text parts on separate lines, or else its refusal."""
    content = message.get("content")
    if content is None:
        refusal = message.get("refusal")
        return refusal if isinstance(refusal, str) else ""
    if isinstance(content, str):
        return content
    texts = [_text(part) for part in content] if isinstance(content, list) else [None]
    told = [text for text in texts if text is not None]
    if len(told) == len(texts):
        return "\n".join(told)
    raise RequestError(
        f'messages[{index}].content must be a string or a list of {{"type": "text", "text": …}} parts: '
        "this model reads text only.",
        param=f"messages[{index}].content",
    )


def _text(part: object) -> str | None:
    """The text of a content part; None if it is something else."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return None
    kind = part.get("type")
    name = "refusal" if kind == "refusal" else "text"
    text = part.get(name)
    known = kind in (None, "refusal", *TEXT_PARTS) and name in part
    return "" if known and text is None else text if known and isinstance(text, str) else None


def _calls(index: int, calls: Any) -> list[Any]:
    """The calls with their arguments as objects. OpenAI sends arguments as text, and templates write them as JSON."""
    try:
        return [
            {
                **{name: value for name, value in call.items() if value is not None},
                "function": _function(call["function"]),
            }
            for call in calls
        ]
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        place = f"messages[{index}].tool_calls"
        raise RequestError(
            f"{place} must be calls of functions by their names, with arguments that are JSON.", param=place
        ) from error


def _function(called: Mapping[str, Any]) -> dict[str, Any]:
    """The function of a call, with its arguments as an object. Raises TypeError when its name is no text."""
    if not isinstance(called["name"], str):
        raise TypeError("The name of a function must be a text.")
    return {**called, "arguments": _arguments(called.get("arguments"))}


def _arguments(given: Any) -> Any:
    """The arguments of a call. Those of a function without parameters are blank, null or missing in some clients."""
    if isinstance(given, str):
        given = json.loads(given) if given.strip() else None
    return {} if given is None else given
