"""Puts the messages of a chat together from the items of another API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from potluck.coordinator.text.messages import TEXT_PARTS
from potluck.errors import RequestError

Json = dict[str, Any]

_SYSTEM = ("system", "developer")


class History:
    """The messages of a chat. What the same side says twice in a row is one message, as templates expect it."""

    def __init__(self) -> None:
        self._messages: list[Json] = []
        """Each with the list of its texts, which are joined once: there may be very many."""

    @property
    def messages(self) -> list[Json]:
        return [{**one, "content": "\n\n".join(filter(None, one["content"]))} for one in self._messages]

    def say(self, role: str, text: str) -> None:
        """Add a text."""
        self._of(role)["content"].append(text)

    def call(self, identity: str, name: str, arguments: str) -> None:
        """Add a call of the assistant. arguments: JSON."""
        function = {"name": name, "arguments": arguments}
        call = {"id": identity, "type": "function", "function": function}
        self._of("assistant").setdefault("tool_calls", []).append(call)

    def result(self, identity: str, text: str) -> None:
        """Add what a call gave."""
        self._messages.append({"role": "tool", "tool_call_id": identity, "content": [text]})

    def extend(self, messages: list[Json]) -> None:
        """Add the messages of another history."""
        for message in messages:
            if "tool_call_id" in message:
                self.result(message["tool_call_id"], message["content"])
                continue
            self.say(message["role"], message["content"])
            for call in message.get("tool_calls", ()):
                self.call(call["id"], call["function"]["name"], call["function"]["arguments"])

    def _of(self, role: str) -> Json:
        """The message to which this role adds: the last one if it goes on with it, or else a new one."""
        last = self._messages[-1] if self._messages else {"role": None}
        if last["role"] == role or {last["role"], role} <= {*_SYSTEM}:
            return last
        self._messages.append(message := {"role": role, "content": []})
        return message


def text_of(content: object, where: str) -> str:
    """The text of a message's content, its parts on separate lines.

    where: the place of the content, for errors. Raises RequestError when it contains more than text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise RequestError(f"{where} must be a string or a list of parts.", param=where)
    return "\n".join(text_of_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def text_of_part(part: object, where: str) -> str:
    """The text of a part. Raises RequestError when it is something else."""
    if isinstance(part, str):
        return part
    kind = field(part, "type")
    text = field(part, "refusal" if kind == "refusal" else "text")
    if isinstance(text, str) and kind in (None, "refusal", *TEXT_PARTS):
        return text
    if text is None and kind in ("refusal", *TEXT_PARTS):
        return ""
    source = field(part, "source")
    if kind == "document" and field(source, "type") == "text":
        return str(field(source, "data") or "")
    raise RequestError(f"{where} is {named(part)}, but this model reads text only.", param=where)


def field(value: object, name: str) -> Any:
    """The field of a JSON object; None if it has none, or is none."""
    return value.get(name) if isinstance(value, Mapping) else None


def named(item: object) -> str:
    """An item of unknown form, as errors call it."""
    kind = field(item, "type")
    return f"of type {kind!r}" if isinstance(kind, str) else "of no type"


def words(item: object, name: str, where: str) -> str:
    """A field that must be a string. Raises RequestError when it is not."""
    value = field(item, name)
    if not isinstance(value, str):
        raise RequestError(f"{where}.{name} must be a string.", param=f"{where}.{name}")
    return value


def listed(item: object, name: str, where: str) -> list[Any]:
    """A field that must be a list if it is given. Raises RequestError when it is something else."""
    value = field(item, name) or []
    if not isinstance(value, list):
        raise RequestError(f"{where}.{name} must be a list.", param=where)
    return value


def as_json(value: object) -> str:
    """The JSON of a value, as text."""
    return msgspec.json.encode(value).decode()
