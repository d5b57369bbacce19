"""OpenAI's responses: a request as one for a chat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct

from potluck.coordinator.http.doors.history import History, Json, listed, named, text_of, words
from potluck.coordinator.http.parsing import described
from potluck.coordinator.http.requests import Reasoning
from potluck.errors import RequestError
from potluck.types import Priority

_ROLES = ("system", "developer", "user", "assistant")
_PASSED = (
    *("model", "stream", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "priority", "service_tier"),
    *("parallel_tool_calls", "reasoning", "chat_template_kwargs"),
)
"""The fields that a request for a chat has under the same name."""

_JOINT = "__"
"""Stands between the name of a namespace and that of a function in it, where the model reads and writes both."""

_MOST_NOTES, _LONGEST_NAME, _LONGEST_NOTE = 16, 64, 512
"""OpenAI's bounds of the metadata: how many, and their characters."""
_Metadata = Annotated[
    dict[str, Any],
    described(
        maxProperties=_MOST_NOTES,
        propertyNames={"maxLength": _LONGEST_NAME},
        additionalProperties={"type": "string", "maxLength": _LONGEST_NOTE},
    ),
]


class TextConfig(Struct, frozen=True):
    """The form of the answer."""

    format: dict[str, Any] | None = None


class ResponsesRequest(Struct, frozen=True, kw_only=True):
    """A request for a response."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool = True
    stream: bool = False
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str | None] | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: _Metadata | None = None
    service_tier: str | None = None
    priority: Priority | int | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def history(self, before: list[Json]) -> History:
        """The messages of the chat but for the instructions. before: those that the response before answered, and it.

        Raises RequestError for what cannot be done here.
        """
        history = History()
        history.extend(before)
        if isinstance(self.input, str):
            history.say("user", self.input)
        else:
            add_items(history, self.input, "input")
        return history

    def chat(self, messages: list[Json]) -> Json:
        """The request for a chat of these messages. Raises RequestError for what cannot be done here."""
        self._check()
        history = History()
        if self.instructions:
            history.say("system", self.instructions)
        history.extend(messages)
        tools = [told for index, tool in enumerate(self.tools or ()) for told in _tools(f"tools[{index}]", tool)]
        allowed, choice = _choice(self.tool_choice)
        form = None if self.text is None else self.text.format
        told = {
            **{name: getattr(self, name) for name in _PASSED},
            "messages": history.messages,
            "max_completion_tokens": self.max_output_tokens,
            "tools": [tool for tool in tools if allowed is None or tool["function"]["name"] in allowed] or None,
            "tool_choice": choice,
            "response_format": None if form is None else _format(form),
        }
        return {name: value for name, value in told.items() if value is not None}

    @property
    def spaces(self) -> dict[str, tuple[str, str]]:
        """The namespace and the name of each function that is in one, by the name under which the model knows it."""
        spaces = (tool for tool in self.tools or () if tool.get("type") == "namespace")
        named = [
            (space["name"], (tool.get("function") or tool)["name"])
            for space in spaces
            for tool in space.get("tools") or ()
        ]
        return {f"{space}{_JOINT}{name}": (space, name) for space, name in named}

    def echo(self) -> Json:
        """The fields that a response repeats from its request, each as JSON, which takes far less room than objects."""
        told = {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": self.previous_response_id,
            "reasoning": {"effort": None if self.reasoning is None else self.reasoning.effort, "summary": None},
            "service_tier": self.service_tier or "default",
            "store": self.store,
            "temperature": self.temperature,
            "text": {"format": (self.text and self.text.format) or {"type": "text"}},
            "tool_choice": self.tool_choice or "auto",
            "tools": self.tools or [],
            "top_p": self.top_p,
            "truncation": "disabled",
        }
        return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in told.items()}

    def _check(self) -> None:
        if self.truncation == "auto":
            message = "truncation auto is not supported: send the history as the model is to read it."
            raise RequestError(message, param="truncation")
        for wanted in self.include or ():
            if wanted != "reasoning.encrypted_content":  # of no use here, where thoughts are left out of the history
                message = f"include asks for {wanted!r}, which responses here do not contain."
                raise RequestError(message, param="include")
        _check_metadata(self.metadata or {})


def _check_metadata(metadata: Json) -> None:
    """Raises RequestError when there is more than OpenAI keeps of a response."""
    fit = (
        len(name) <= _LONGEST_NAME and isinstance(note, str) and len(note) <= _LONGEST_NOTE
        for name, note in metadata.items()
    )
    if len(metadata) > _MOST_NOTES or not all(fit):
        message = (
            f"metadata may have up to {_MOST_NOTES} texts of up to {_LONGEST_NOTE} characters, "
            f"under names of up to {_LONGEST_NAME}."
        )
        raise RequestError(message, param="metadata")


def add_items(history: History, items: Iterable[Json], where: str) -> None:
    """Add the items of an input or an output. where: the field that has them, for errors."""
    for index, item in enumerate(items):
        _add(history, item, f"{where}[{index}]")


def _add(history: History, item: Json, where: str) -> None:
    match item.get("type"):
        case None | "message":
            role = item.get("role")
            if role not in _ROLES:
                message = f"{where}.role must be one of {', '.join(_ROLES)}, not {role!r}."
                raise RequestError(message, param=f"{where}.role")
            history.say(role, text_of(item.get("content"), f"{where}.content"))
        case "function_call":
            name, space = words(item, "name", where), item.get("namespace")
            told = f"{space}{_JOINT}{name}" if space else name
            history.call(words(item, "call_id", where), told, words(item, "arguments", where))
        case "function_call_output":
            output = text_of(item.get("output"), f"{where}.output")
            history.result(words(item, "call_id", where), output)
        case "reasoning":
            pass  # models do not read their thoughts again
        case _:
            raise RequestError(f"{where} is {named(item)}, which models here cannot read.", param=where)


def _tools(where: str, tool: Json) -> Iterator[Json]:
    """The functions that a tool consists of: it may be a namespace of several. A search that may not reach the web is
    none.
    """
    if tool.get("type") == "namespace":
        space = words(tool, "name", where)
        for index, inner in enumerate(listed(tool, "tools", where)):
            told = _tool(f"{where}.tools[{index}]", inner)
            yield {**told, "function": {**told["function"], "name": f"{space}{_JOINT}{told['function']['name']}"}}
    elif not (tool.get("type") == "web_search" and tool.get("external_web_access") is False):
        yield _tool(where, tool)


def _tool(where: str, tool: Json) -> Json:
    if tool.get("type") != "function":
        message = f"{where} is {named(tool)}, but only tools of type 'function' can be offered here."
        raise RequestError(message, param=where)
    tool = tool.get("function") or tool  # some clients send the form of chats
    told = {name: tool[name] for name in ("description", "parameters") if tool.get(name) is not None}
    return {"type": "function", "function": {"name": words(tool, "name", where), **told}}


def _choice(choice: str | Json | None) -> tuple[list[Any] | None, str | Json | None]:
    """The names of the tools that may be called, None for all, and the choice in the words of chats."""
    if choice is None or isinstance(choice, str):
        return None, choice
    match choice.get("type"):
        case "function":
            return None, {"type": "function", "function": {"name": words(choice, "name", "tool_choice")}}
        case "allowed_tools":
            allowed = [words(tool, "name", "tool_choice.tools") for tool in listed(choice, "tools", "tool_choice")]
            return allowed, choice.get("mode", "auto")
        case _:
            message = f"tool_choice is {named(choice)}, but only functions can be called here."
            raise RequestError(message, param="tool_choice")


def _format(form: Json) -> Json:
    if form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {name: value for name, value in form.items() if name != "type"}}
