"""Replayed history: turns the messages that any SDK may have written into the form that chat templates expect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from potluck.coordinator.text.thinking import gathered
from potluck.errors import RequestError

ROLES = ("system", "developer", "user", "assistant", "tool", "function")

TEXT_PARTS = ("text", "input_text", "output_text")
"""The types of a content part that is text: that of chats, and those of OpenAI's responses."""

RAW_ARGUMENTS = "raw_arguments"
"""The name under which templates find arguments that are no JSON object."""

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
    if not isinstance(calls, list):
        raise _no_call(f"messages[{index}].tool_calls", "must be a list of calls")
    return [_call(f"messages[{index}].tool_calls[{place}]", call) for place, call in enumerate(calls)]


def _call(place: str, call: Any) -> dict[str, Any]:
    """A call in OpenAI's form, or in LangChain's, whose name and `args` stand beside its id."""
    if not isinstance(call, dict):
        raise _no_call(place, "must be an object")
    if call.get("custom"):
        raise _no_call(place, "must call a function, not a custom tool")
    given = {name: value for name, value in call.items() if value is not None}
    flat = {"name": given.pop("name", None), "arguments": given.pop("args", given.pop("arguments", None))}
    function = given.get("function", flat)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _no_call(place, "must name a function")
    try:
        arguments = _arguments(function.get("arguments"))
    except RecursionError as error:
        raise _no_call(f"{place}.function.arguments", "are nested too deeply") from error
    kind = {"type": "function"} if "function" not in given else {}
    return {**given, **kind, "function": {**function, "arguments": arguments}}


def _no_call(place: str, fault: str) -> RequestError:
    return RequestError(f"{place} {fault}.", param=place)


def _arguments(given: Any) -> dict[str, Any]:
    """The arguments of a call. Those of a function without parameters are blank, null or missing in some clients.

    A model may write arguments that are no JSON object, or be cut off in them. They stay as they are, in an object,
    which all templates can write, so that the model can read what it wrote.
    """
    if given is None or (isinstance(given, str) and given.strip() in ("", "null")):
        return {}
    read = _decoded(given) if isinstance(given, str) else given
    return read if isinstance(read, dict) else {RAW_ARGUMENTS: given}


def _decoded(text: str) -> Any:
    """The decoded JSON; None for text that is not JSON, as it is defined: NaN is a number of JavaScript's."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except ValueError:
        return None


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)
