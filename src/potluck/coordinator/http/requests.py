"""The requests of clients in OpenAI's words, with the bounds of each field. Unknown fields are ignored."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from potluck.coordinator.generation.sampling import Bias, SamplingParams
from potluck.coordinator.generation.structure import Structure
from potluck.coordinator.http.parsing import described, refused_with
from potluck.coordinator.http.prediction import Prediction
from potluck.coordinator.http.structured import Structured
from potluck.coordinator.http.tools import Choice, GivenTool, Tool, Wish
from potluck.coordinator.text.messages import ROLES, TEXT_PARTS
from potluck.coordinator.text.thinking import THINKING_PARTS
from potluck.errors import RequestError
from potluck.types import Priority

MAX_CHOICES = 64
MOST_ANSWERS = 2048
"""The most answers of one request for completions: prompts times choices."""
_MAX_STOPS = 256
_LONGEST_STOP = 512
_ALL_STOPS = 4096
"""The characters of all stop strings together. Their beginnings are looked for after every token."""
_MAX_LOGPROBS = 20

_MAY_BE_TEXT = {"type": ["string", "null"]}
_THOUGHT = {"type": "object", "properties": {"type": {"enum": list(THINKING_PARTS)}}, "required": ["type"]}
_PART = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"type": {"enum": [None, *TEXT_PARTS]}, "text": _MAY_BE_TEXT},
            "required": ["text"],
        },
        {
            "type": "object",
            "properties": {"type": {"const": "refusal"}, "refusal": _MAY_BE_TEXT},
            "required": ["type", "refusal"],
        },
        _THOUGHT,
    ]
}
_Message = Annotated[
    dict[str, Any],
    described(
        properties={
            "role": {"enum": list(ROLES)},
            "content": {"anyOf": [_MAY_BE_TEXT, {"type": "array", "items": _PART}]},
        },
        required=["role"],
    ),
]
Token = Annotated[int, described(minimum=0, maximum=2**31 - 1)]
"""A token id. The served model's vocabulary bounds it further: see `openai.checked_tokens`."""
_Share = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_MOST_BIAS = 100
_Bias = dict[str, Annotated[float, Meta(ge=-_MOST_BIAS, le=_MOST_BIAS)]] | list[tuple[int, float | bool]]
_Repetition = Annotated[float, Meta(ge=0.01, le=100)]
_Logprobs = Annotated[int, Meta(ge=0, le=_MAX_LOGPROBS)]

_STOP = f"stop takes up to {_MAX_STOPS} strings of up to {_LONGEST_STOP} characters, and {_ALL_STOPS} in all."
_Stop = Annotated[str, refused_with(_STOP, max_length=_LONGEST_STOP)]
_Stops = _Stop | Annotated[list[_Stop | None], refused_with(_STOP, max_length=_MAX_STOPS)]
_Ends = Annotated[list[Token], refused_with(f"stop_token_ids takes up to {_MAX_STOPS} tokens.", max_length=_MAX_STOPS)]
_RANDOM = -1
"""The seed with which clients of llama.cpp's server and of vLLM ask for a fresh one."""

_PROMPT = f"prompt must be a text, a list of token ids, or a list of up to {MOST_ANSWERS} of these, none empty."
_GIVEN = refused_with(_PROMPT, min_length=1)
_Text = Annotated[str, _GIVEN]
_Prompt = _Text | Annotated[list[_Text | Token | Annotated[list[Token], _GIVEN]], _GIVEN]


class StreamOptions(Struct, frozen=True):
    include_usage: bool | None = None


class Common(Structured, frozen=True, kw_only=True, dict=True):
    """The fields that both kinds of request share."""

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_progress: bool = False
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: int | None = None
    max_new_tokens: int | None = None
    n_predict: int | None = None
    num_predict: int | None = None
    best_of: int | None = None
    stop: _Stops | None = None
    stop_token_ids: _Ends | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: _Share | None = None
    top_k: int | None = None
    min_p: _Share | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    repetition_penalty: _Repetition | None = None
    repeat_penalty: _Repetition | None = None
    logit_bias: (
        dict[str, Annotated[float, Meta(ge=-_MOST_BIAS, le=_MOST_BIAS)]] | list[tuple[int, float | bool]] | None
    ) = None
    seed: int | None = None
    ignore_eos: bool = False
    min_tokens: Annotated[int, Meta(ge=0)] = 0
    prediction: Prediction | None = None
    priority: Priority | int | None = None
    service_tier: str | None = None

    @property
    def prescribed(self) -> Structure | None:
        """The structure that the answer must have; None allows any text."""
        structure = self.structure
        if structure is not None and (self.ignore_eos or self.min_tokens):
            message = f"{structure.param} says where the answer ends: leave ignore_eos and min_tokens out."
            raise RequestError(message, param=structure.param)
        return structure

    @property
    def urgency(self) -> Priority:
        """The urgency, in our words or in OpenAI's, whose "flex" is cheaper and may wait, or as one of vLLM's numbers,
        which are 0 unless a request may wait for others, or must not wait.
        """
        if isinstance(self.priority, int):
            return Priority.BATCH if self.priority > 0 else Priority.INTERACTIVE
        if self.priority is not None:
            return self.priority
        return Priority.BATCH if self.service_tier == "flex" else Priority.INTERACTIVE

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings. Clients send empty ones for none."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if sum(len(stop or "") for stop in given) > _ALL_STOPS:
            raise RequestError(_STOP, param="stop")
        return tuple(stop for stop in given if stop)

    @property
    def choices(self) -> int:
        """The answers to each prompt. Others choose them from `best_of`; here it may only ask for all of these."""
        choices = 1 if self.n is None else self.n
        if self.best_of not in (None, choices):
            raise RequestError("best_of is not supported: leave it out, or give it the value of n.", param="best_of")
        return choices

    def least(self, limit: int) -> int:
        """The fewest tokens of the answer. limit: the most."""
        return min(self.min_tokens, limit)

    @property
    def wanted(self) -> int | None:
        """The most tokens of the answer, in the words of OpenAI or else of other servers."""
        named = (self.max_tokens, self.max_new_tokens, self.n_predict, self.num_predict)
        return next((limit for limit in named if limit is not None), None)

    @property
    def tells_progress(self) -> bool:
        return self.stream and self.return_progress

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling(self, choice: int, defaults: SamplingParams) -> SamplingParams:
        """The parameters of the answer with this number. With a seed, each of several answers has its own.

        defaults: of what the request leaves out.
        """
        given = {
            name: value for name in SamplingParams.__struct_fields__ if (value := getattr(self, name, None)) is not None
        }
        given["logit_bias"] = self._bias
        if self.repetition_penalty is None and self.repeat_penalty is not None:
            given["repetition_penalty"] = self.repeat_penalty
        given["top_k"] = max(0, given.get("top_k", defaults.top_k))
        given["seed"] = None if self.seed in (None, _RANDOM) else self.seed + choice
        return msgspec.structs.replace(defaults, **given)

    @cached_property
    def _bias(self) -> Bias:
        """Made once, because there may be thousands, and many answers. llama.cpp's server has a list of pairs, in which
        false bans a token.
        """
        try:
            given = self.logit_bias.items() if isinstance(self.logit_bias, dict) else self.logit_bias or []
            biases = Bias((int(token), -_MOST_BIAS if bias is False else float(bias)) for token, bias in given)
        except ValueError as error:
            raise RequestError("logit_bias names tokens by their id, a number.", param="logit_bias") from error
        if any(abs(bias) > _MOST_BIAS for bias in biases.values()):
            raise RequestError("logit_bias must lie between -100 and 100.", param="logit_bias")
        wrong = min(biases, default=0)
        if wrong < 0:
            raise RequestError(f"logit_bias names tokens by their id, and {wrong} is not an id.", param="logit_bias")
        return biases


class Reasoning(Struct, frozen=True):
    """How much the model shall think, in the words of OpenAI's responses and of OpenRouter. exclude: do not tell it."""

    effort: str | None = None
    enabled: bool | None = None
    exclude: bool = False


class ThinkingMode(Struct, frozen=True):
    """Whether the model shall think, as DeepSeek and Anthropic say it."""

    type: Literal["enabled", "disabled", "adaptive"]


class ChatRequest(Common, frozen=True, kw_only=True):
    messages: Annotated[list[_Message], refused_with("messages must hold at least one message.", min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: _Logprobs | None = None
    tools: list[GivenTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | Choice | None = None
    parallel_tool_calls: bool = True
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    enable_thinking: bool | None = None
    include_reasoning: bool = True
    thinking: ThinkingMode | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @property
    def tells_thinking(self) -> bool:
        return self.include_reasoning and not (self.reasoning and self.reasoning.exclude)

    @cached_property
    def _wish(self) -> Wish:
        return Wish.of(self.tool_choice)

    @cached_property
    def offered(self) -> list[Tool]:
        """The tools that the model may call."""
        wish = self._wish
        tools = [] if wish.mode == "none" else [given.tool for given in self.tools or ()]
        unknown = sorted((wish.names or frozenset()) - {tool.function.name for tool in tools})
        if unknown and tools:
            raise RequestError(f"tool_choice names {unknown[0]!r}, which is not among tools.", param="tool_choice")
        return (
            tools if wish.once or wish.names is None else [tool for tool in tools if tool.function.name in wish.names]
        )

    @cached_property
    def demanded(self) -> list[Tool]:
        """The tools of which the answer must call one; none if it may be text."""
        if self._wish.mode != "required":
            return []
        if self.ignore_eos or self.min_tokens:
            message = "tool_choice says where the answer ends: leave ignore_eos and min_tokens out."
            raise RequestError(message, param="tool_choice")
        names = self._wish.names
        demanded = [tool for tool in self.offered if names is None or tool.function.name in names]
        if not demanded:
            raise RequestError("tool_choice demands a call, but there are no tools.", param="tool_choice")
        return demanded

    @property
    def calls_once(self) -> bool:
        """Whether the answer may contain at most one call."""
        return not self.parallel_tool_calls or self._wish.once

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer that are wanted; a negative number and None set no limit."""
        return self.wanted if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def alternatives(self) -> int | None:
        """How many top log-probabilities are wanted for each token; None for no log-probabilities at all."""
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs to be true.", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Common, frozen=True, kw_only=True):
    prompt: _Prompt
    logprobs: bool | _Logprobs | None = None
    echo: bool = False

    @property
    def limit(self) -> int:
        """As for chats, but OpenAI's default for completions is 16 tokens."""
        return 16 if self.wanted is None else self.wanted

    @property
    def alternatives(self) -> int | None:
        """As for chats. Clients of chats may say whether they want any."""
        if isinstance(self.logprobs, bool):
            return 0 if self.logprobs else None
        return self.logprobs

    @cached_property
    def prompts(self) -> list[str | list[int]]:
        """One prompt for each choice, as text or as token ids."""
        given = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if isinstance(given[0], int):
            tokens = [item for item in given if isinstance(item, int)]
            if len(tokens) == len(given):
                return [tokens]
        elif len(given) <= MOST_ANSWERS:
            prompts = [item for item in given if not isinstance(item, int)]
            if len(prompts) == len(given):
                return prompts
        raise RequestError(_PROMPT, param="prompt")
