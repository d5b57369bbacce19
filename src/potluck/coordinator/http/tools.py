"""The tools of a request, and which of them the answer may or must call, in the forms that clients write."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from msgspec import Struct

from potluck.errors import RequestError

Mode = Literal["auto", "none", "required"]


class Function(Struct, frozen=True, omit_defaults=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """The schema of its arguments. Raises RequestError when they are not an object."""
        if self.parameters is None:
            return {"type": "object", "additionalProperties": False}
        kind = self.parameters.get("type", "object")
        if kind != "object":
            raise RequestError(f"The parameters of {self.name} must be an object, not {kind!r}.", param="tools")
        return {**self.parameters, "type": "object"}


class Tool(Struct, frozen=True):
    """A tool that the model may ask the client to use."""

    type: Literal["function"]
    function: Function


class GivenTool(Struct, frozen=True):
    """A tool as clients write it: with a `function`, as in chats, or with its fields beside `type`, as in responses."""

    type: Literal["function"] = "function"
    function: Function | None = None
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @property
    def tool(self) -> Tool:
        """The tool in the form of chats. Raises RequestError when it has no name."""
        if self.function is not None:
            return Tool("function", self.function)
        if self.name is None:
            raise RequestError("A tool must have a function with a name.", param="tools")
        return Tool("function", Function(self.name, self.description, self.parameters))


class Named(Struct, frozen=True):
    """A function by its name."""

    name: str


class Chosen(Struct, frozen=True):
    """A tool among those that are allowed."""

    type: Literal["function"] = "function"
    function: Named | None = None
    name: str | None = None


class AllowedTools(Struct, frozen=True):
    """The tools that the answer may call. mode: "required" demands a call of one of them."""

    tools: list[Chosen]
    mode: Literal["auto", "required"] = "auto"


class Choice(Struct, frozen=True):
    """A choice of tools as an object, in the form of chats or of responses."""

    type: Literal["function", "allowed_tools", "auto", "none", "required"]
    function: Named | None = None
    name: str | None = None
    allowed_tools: AllowedTools | None = None
    tools: list[Chosen] | None = None
    mode: Literal["auto", "required"] = "auto"


class Wish(NamedTuple):
    """Whether the answer may or must call a tool. names: of which tools; None: of all. once: at most one call."""

    mode: Mode
    names: frozenset[str] | None = None
    once: bool = False

    @classmethod
    def of(cls, choice: Mode | Choice | None) -> Wish:
        """Raises RequestError when a tool is chosen without its name."""
        if choice is None:
            return cls("auto")
        if isinstance(choice, str):
            return cls(choice)
        if choice.type == "function":
            return cls("required", frozenset({_name(choice)}), once=True)
        if choice.type != "allowed_tools":
            return cls(choice.type)
        allowed = choice.allowed_tools or AllowedTools(choice.tools or [], choice.mode)
        return cls(allowed.mode, frozenset(map(_name, allowed.tools)))


def _name(chosen: Choice | Chosen) -> str:
    name = chosen.function.name if chosen.function else chosen.name
    if name is None:
        raise RequestError("tool_choice must name the function.", param="tool_choice")
    return name
