"""Anthropic's messages: a request as one for a chat."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Struct

from potluck.coordinator.http.doors.history import (
    History,
    Json,
    as_json,
    field,
    listed,
    named,
    text_of,
    text_of_part,
    words,
)
from potluck.coordinator.http.parsing import described, refused_with
from potluck.errors import RequestError
from potluck.types import Priority

_CONTENT = {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": ["object", "string"]}}]}
_Message = Annotated[
    dict[str, Any],
    described(properties={"role": {"enum": ["user", "assistant", "system"]}, "content": _CONTENT}, required=["role"]),
]

_LEFT_OUT = ("thinking", "redacted_thinking")
"""The blocks of a history that models do not read again."""
_EFFORTS = {"xhigh": "high", "max": "high"}
"""The efforts that only Anthropic's models know, by the nearest that others do."""


class MessageChoice(Struct, frozen=True):
    """Which tools the answer may or must call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Struct, frozen=True):
    """Whether the model thinks before it answers. How much is up to the model."""

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]


class MessageTool(Struct, frozen=True):
    """A tool of the client. Those that Anthropic defines have another type, and no schema."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class OutputConfig(Struct, frozen=True):
    """How much the model thinks, and the form of the answer."""

    effort: str | None = None
    format: dict[str, Any] | None = None


class CountRequest(Struct, frozen=True, kw_only=True):
    """The part of a request for a message that makes its prompt."""

    messages: Annotated[list[_Message], refused_with("messages must hold at least one message.", min_length=1)]
    model: str | None = None
    system: str | list[dict[str, Any]] | None = None
    tools: list[MessageTool] | None = None
    tool_choice: MessageChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    context_management: dict[str, Any] | None = None

    def chat(self) -> Json:
        """The request for a chat. Raises RequestError for what cannot be done here."""
        _check_edits(self.context_management)
        choice, config = self.tool_choice, self.output_config or OutputConfig()
        told = {
            "model": self.model,
            "messages": self._history(),
            "tools": [_tool(index, tool) for index, tool in enumerate(self.tools or ())] or None,
            "tool_choice": None if choice is None else _choice(choice),
            "parallel_tool_calls": False if choice is not None and choice.disable_parallel_tool_use else None,
            "enable_thinking": None if self.thinking is None else self.thinking.type != "disabled",
            "chat_template_kwargs": self.chat_template_kwargs,
            "reasoning_effort": None if config.effort is None else _EFFORTS.get(config.effort, config.effort),
            "response_format": _format(config.format or self.output_format),
        }
        return {name: value for name, value in told.items() if value is not None}

    def _history(self) -> list[Json]:
        history = History()
        if system := text_of(self.system, "system"):
            history.say("system", system)
        for index, message in enumerate(self.messages):
            _add(history, message, f"messages[{index}]")
        return history.messages


class MessagesRequest(CountRequest, frozen=True, kw_only=True):
    """A request for a message."""

    max_tokens: int | None = None
    stop_sequences: list[str] | None = None
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    priority: Priority | int | None = None
    service_tier: str | None = None

    def chat(self) -> Json:
        passed = ("stream", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "priority", "service_tier")
        told = {name: getattr(self, name) for name in passed} | {"stop": self.stop_sequences or None}
        return {**super().chat(), **{name: value for name, value in told.items() if value is not None}}


def _add(history: History, message: Json, where: str) -> None:
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise RequestError(f"{where}.role must be user, assistant or system, not {role!r}.", param=f"{where}.role")
    if not isinstance(content, list):
        history.say(role, text_of(content, f"{where}.content"))
        return
    texts, calls, results = [], 0, 0
    for index, block in enumerate(content):
        place = f"{where}.content[{index}]"
        match field(block, "type"):
            case "tool_result":  # comes before what is said beside it, as templates expect
                history.result(words(block, "tool_use_id", place), _result(block, place))
                results += 1
            case "tool_use":
                history.call(words(block, "id", place), words(block, "name", place), as_json(block.get("input") or {}))
                calls += 1
            case kind if kind not in _LEFT_OUT:
                texts.append(text_of_part(block, place))
    if texts or not (calls or results):
        history.say(role, "\n".join(texts))


def _result(block: Any, where: str) -> str:
    text = text_of(block.get("content"), f"{where}.content")
    return f"Error: {text}" if block.get("is_error") else text


def _tool(index: int, tool: MessageTool) -> Json:
    if tool.type not in (None, "custom"):
        where = f"tools[{index}]"
        message = f"{where} is {tool.type}, which is Anthropic's own: only tools with an input_schema can be offered."
        raise RequestError(message, param=where)
    described = {} if tool.description is None else {"description": tool.description}
    parameters = {} if tool.input_schema is None else {"parameters": tool.input_schema}
    return {"type": "function", "function": {"name": tool.name, **described, **parameters}}


def _choice(choice: MessageChoice) -> str | Json:
    if choice.type == "tool":
        if choice.name is None:
            raise RequestError("tool_choice of type tool needs the name of a tool.", param="tool_choice")
        return {"type": "function", "function": {"name": choice.name}}
    return {"auto": "auto", "any": "required", "none": "none"}[choice.type]


def _format(form: Json | None) -> Json | None:
    if form is None:
        return None
    if form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
        message = f"The format of the output must be of type 'json_schema' with a schema, not {named(form)}."
        raise RequestError(message, param="output_config")
    return {"type": "json_schema", "json_schema": {"schema": form["schema"]}}


def _check_edits(management: Json | None) -> None:
    """Raises RequestError when a part of the history is to be cleared that is not left out anyway."""
    for edit in listed(management, "edits", "context_management"):
        if not str(field(edit, "type")).startswith("clear_thinking"):
            message = f"context_management has an edit {named(edit)}: send the history as the model is to read it."
            raise RequestError(message, param="context_management")
