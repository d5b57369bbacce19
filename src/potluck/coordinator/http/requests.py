"""What clients may ask, as the OpenAI API words it: JSON in, validated values out. Fields unknown to us are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from potluck.coordinator.generation.sampling import SamplingParams
from potluck.coordinator.text.template import ROLES
from potluck.errors import RequestError
from potluck.types import Priority

MAX_CHOICES = 64
_MAX_STOPS = 16
_MAX_LOGPROBS = 20

_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}


def described(**schema: object) -> Meta:
    """What `openapi` tells of a field besides its type; it is checked where the field is used."""
    return Meta(extra_json_schema=schema)


_Message = Annotated[
    dict[str, Any],
    described(
        properties={
            "role": {"enum": list(ROLES)},
            "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART}]},
        },
        required=["role", "content"],
    ),
]
_Words = Annotated[str, described(minLength=1)]
_Token = Annotated[int, described(minimum=0, maximum=2**31 - 1)]
_Count = Annotated[int | None, described(minimum=0)]
_Share = Annotated[float | None, described(minimum=0, maximum=1)]
_Penalty = Annotated[float | None, described(minimum=-2, maximum=2)]
_Logprobs = Annotated[int | None, described(minimum=0, maximum=_MAX_LOGPROBS)]


class StreamOptions(Struct, frozen=True):
    include_usage: bool = False


class JsonSchema(Struct, frozen=True, rename={"definition": "schema"}):
    """name and strict are OpenAI's; the answer keeps to the schema whatever they say."""

    definition: dict[str, Any]
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct, frozen=True):
    """What the answer must look like: any text, a JSON object, or JSON that a schema describes."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Common(Struct, frozen=True, kw_only=True):
    """Of both kinds of request."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_progress: bool = False
    max_tokens: _Count = None
    n: Annotated[int | None, described(minimum=1, maximum=MAX_CHOICES)] = None
    stop: _Words | Annotated[list[_Words], described(maxItems=_MAX_STOPS)] | None = None
    temperature: Annotated[float | None, described(minimum=0, maximum=2)] = None
    top_p: _Share = None
    top_k: _Count = None
    min_p: _Share = None
    frequency_penalty: _Penalty = None
    presence_penalty: _Penalty = None
    repetition_penalty: Annotated[float | None, described(minimum=0.01, maximum=100)] = None
    logit_bias: dict[str, Annotated[float, described(minimum=-100, maximum=100)]] | None = None
    seed: int | None = None
    ignore_eos: bool = False
    min_tokens: Annotated[int, described(minimum=0)] = 0
    priority: Priority | None = None
    service_tier: str | None = None
    response_format: ResponseFormat | None = None

    @property
    def schema(self) -> dict[str, Any] | None:
        """What the answer must keep to, as a JSON schema; None: any text will do."""
        form = self.response_format
        if form is None or form.type == "text":
            return None
        if self.ignore_eos or self.min_tokens:
            message = "response_format says where the answer ends: leave ignore_eos and min_tokens out."
            raise RequestError(message, param="response_format")
        if form.type == "json_object":
            return {"type": "object"}
        if form.json_schema is None:
            raise RequestError("response_format.json_schema is missing.", param="response_format")
        return form.json_schema.definition

    @property
    def urgency(self) -> Priority:
        """As we ask for it, or as OpenAI does: its "flex" is cheaper and may wait."""
        if self.priority is not None:
            return self.priority
        return Priority.BATCH if self.service_tier == "flex" else Priority.INTERACTIVE

    @property
    def stops(self) -> tuple[str, ...]:
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > _MAX_STOPS or "" in stops:
            raise RequestError(f"stop takes up to {_MAX_STOPS} strings, none of them empty.", param="stop")
        return stops

    @property
    def choices(self) -> int:
        if self.n is not None and not 1 <= self.n <= MAX_CHOICES:
            raise RequestError(f"n must lie between 1 and {MAX_CHOICES}, not {self.n}.", param="n")
        return self.n or 1

    def least(self, limit: int) -> int:
        """Tokens that the answer must have, of so many that it may have."""
        if not 0 <= self.min_tokens <= limit:
            message = f"min_tokens must lie between 0 and the answer's limit of {limit}, not {self.min_tokens}."
            raise RequestError(message, param="min_tokens")
        return self.min_tokens

    @property
    def tells_progress(self) -> bool:
        return self.stream and self.return_progress

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, choice: int) -> SamplingParams:
        """For the answer with this number: with a seed, each of several answers has its own."""
        given = {
            name: value for name in SamplingParams.__struct_fields__ if (value := getattr(self, name, None)) is not None
        }
        given["logit_bias"] = self._bias()
        if self.seed is not None:
            given["seed"] = self.seed + choice
        return SamplingParams(**given)

    def _bias(self) -> dict[int, float]:
        try:
            return {int(token): bias for token, bias in (self.logit_bias or {}).items()}
        except ValueError as error:
            raise RequestError("logit_bias names tokens by their id, a number.", param="logit_bias") from error


class Function(Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """Of its arguments. Raises RequestError where they are no object."""
        if self.parameters is None:
            return {"type": "object", "additionalProperties": False}
        kind = self.parameters.get("type", "object")
        if kind != "object":
            raise RequestError(f"The parameters of {self.name} must be an object, not {kind!r}.", param="tools")
        return {**self.parameters, "type": "object"}


class Tool(Struct, frozen=True):
    """What the model may ask the client to do."""

    type: Literal["function"]
    function: Function


class NamedFunction(Struct, frozen=True):
    name: str


class NamedTool(Struct, frozen=True):
    """The one that the answer must call."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(Common, frozen=True, kw_only=True):
    messages: Annotated[list[_Message], described(minItems=1)]
    max_completion_tokens: _Count = None
    logprobs: bool | None = None
    top_logprobs: _Logprobs = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool = True
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def offered(self) -> list[Tool]:
        """The tools that the model may call."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def demanded(self) -> list[Tool]:
        """Those of which the answer must call one; none where it may be text."""
        if self.tool_choice in (None, "auto", "none"):
            return []
        if self.ignore_eos or self.min_tokens:
            message = "tool_choice says where the answer ends: leave ignore_eos and min_tokens out."
            raise RequestError(message, param="tool_choice")
        name = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
        demanded = [tool for tool in self.offered if name in (None, tool.function.name)]
        if not demanded:
            raise RequestError("tool_choice demands a tool that is not among tools.", param="tool_choice")
        return demanded

    @property
    def calls_once(self) -> bool:
        """Whether the answer may hold no more than one call."""
        return not self.parallel_tool_calls or isinstance(self.tool_choice, NamedTool)

    @property
    def limit(self) -> tuple[str, int | None]:
        """The field that bounds the answer, and its value."""
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return "max_tokens", self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """How many top log-probabilities are wanted a token; None: no log-probabilities at all."""
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs to be true.", param="top_logprobs")
        return checked_logprobs(self.top_logprobs or 0, "top_logprobs") if self.logprobs else None


class CompletionRequest(Common, frozen=True, kw_only=True):
    prompt: _Words | Annotated[list[_Words | _Token | list[_Token]], described(minItems=1, maxItems=MAX_CHOICES)]
    logprobs: _Logprobs = None
    echo: bool = False

    @property
    def limit(self) -> tuple[str, int | None]:
        """As for chat; OpenAI's default for completions is 16 tokens."""
        return "max_tokens", 16 if self.max_tokens is None else self.max_tokens

    @property
    def alternatives(self) -> int | None:
        return None if self.logprobs is None else checked_logprobs(self.logprobs, "logprobs")

    @property
    def prompts(self) -> list[str | list[int]]:
        """A prompt a choice, each as text or as token ids."""
        given = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if given and all(isinstance(item, int) for item in given):
            return [[item for item in given if isinstance(item, int)]]
        prompts = [item for item in given if not isinstance(item, int)]
        if not 1 <= len(prompts) <= MAX_CHOICES or len(prompts) != len(given) or not all(prompts):
            raise RequestError(
                f"prompt must be a text, a list of token ids, or a list of up to {MAX_CHOICES} of these, none empty.",
                param="prompt",
            )
        return prompts


class TokenizeRequest(Struct, frozen=True, kw_only=True):
    """As llama.cpp's server takes it, a `content`; or as vLLM's does, a `prompt`.

    add_special: begin as a sequence does; vLLM's word for it is add_special_tokens, and its default the other one.
    with_pieces: each token's text as well.
    """

    content: str | None = None
    add_special: bool = False
    with_pieces: bool = False
    prompt: str | None = None
    add_special_tokens: bool = True

    @property
    def given(self) -> tuple[str, bool]:
        """The text, and whether to begin as a sequence does. Raises RequestError unless it is given in one way."""
        if self.content is not None and self.prompt is None:
            return self.content, self.add_special
        if self.prompt is not None and self.content is None:
            return self.prompt, self.add_special_tokens
        raise RequestError("Give either content or a prompt.", param="content")


class DetokenizeRequest(Struct, frozen=True, kw_only=True):
    tokens: list[_Token]


class HiddenStatesRequest(Struct, frozen=True, kw_only=True):
    """Of the prompt, as text or as token ids. layer: after which the rows are taken; the model's last has none."""

    model: str
    layer: Annotated[int, described(minimum=0)]
    prompt: _Words | None = None
    tokens: Annotated[list[_Token], described(minItems=1)] | None = None
    priority: Priority = Priority.INTERACTIVE

    @property
    def given(self) -> str | list[int]:
        """Raises RequestError unless there is one or the other."""
        if (self.prompt is None) == (self.tokens is None):
            raise RequestError("Give either a prompt or tokens.", param="prompt")
        given = self.tokens if self.prompt is None else self.prompt
        if not given:
            raise RequestError("The prompt is empty.", param="tokens" if self.prompt is None else "prompt")
        return given


def checked_logprobs(count: int, param: str) -> int:
    if not 0 <= count <= _MAX_LOGPROBS:
        raise RequestError(f"{param} must lie between 0 and {_MAX_LOGPROBS}, not {count}.", param=param)
    return count


R = TypeVar("R", bound=Struct)

_NULL = msgspec.Raw(b"null")
"""OpenAI's word for "not given"."""


def parse(body: bytes, kind: type[R]) -> R:
    """Raises RequestError when the body is no JSON, or not of this kind."""
    try:
        # Values stay text here: making objects of those that are not known would hold up all nodes.
        fields, known = msgspec.json.decode(body, type=dict[str, msgspec.Raw]), kind.__struct_encode_fields__
        given = {name: value for name, value in fields.items() if value != _NULL or name not in known}
        return msgspec.json.decode(msgspec.json.encode(given), type=kind)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$.")
        field = place.rstrip("`").split("[")[0] or _missing(text)
        where = f"{field}: " if place else ""
        raise RequestError(f"{where}{text}.", param=field or None) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"The request's body is not valid JSON: {error}.") from error


def _missing(text: str) -> str:
    """The field in msgspec's "Object missing required field `x`"."""
    return text.split("`")[1] if "missing required field" in text else ""
