"""Chat templates, which turn a list of messages into the one text that the model was trained to continue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from potluck.coordinator.text.calls.registry import dialect_of
from potluck.coordinator.text.calls.words import (
    Chat,
    in_words,
    offered,
    told_of,
    with_arguments_as_text,
    with_fitting_ids,
)
from potluck.coordinator.text.messages import template_message
from potluck.coordinator.text.thinking import Place, Thinking, recalled
from potluck.errors import ModelError, RequestError

PLAIN = """\
{%- for message in messages %}
    {{- message.role | capitalize + ': ' + message.content | trim + '\n\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'Assistant:' }}
{%- endif %}"""
"""The template of models that bring none: a dialogue in plain words, which a base model can continue."""

PLAIN_STOPS = ("\n\nUser:", "\nUser:", "\n\nSystem:", "\nSystem:")
"""The strings at which such a model would go on to write the next turn itself."""

_LONGEST = 1 << 20
"""The most characters of a template. The longest that are known have some ten thousand."""

_RENDERING_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""The exceptions that an expression in a template may raise for messages that it was not written for."""


_HERE = "\ue0c5\ue0c6\ue0c7"
"""Stands in a message where the prompt shall end. These characters have no meaning in Unicode."""

Message = dict[str, Any]
Messages = Sequence[Mapping[str, Any]]


class Rendered(NamedTuple):
    """A prompt. place: where in the answer it ends."""

    text: str
    place: Place


class ChatTemplate:
    """A Jinja template in the dialect of Hugging Face, run in a sandbox because it comes with the model.

    source: None gives the plain one. bos, eos: the texts that it knows as `bos_token` and `eos_token`.
    tool_use: another source for chats in which tools are offered. Raises ModelError when a source is not valid.
    """

    def __init__(self, source: str | None, bos: str = "", eos: str = "", tool_use: str | None = None) -> None:
        self.source = PLAIN if source is None else source
        self._tool_use = self.source if tool_use is None else tool_use
        self.calls = dialect_of(self._tool_use)
        self.thinking = Thinking.of(self.source) or Thinking.of(self._tool_use)
        """The marks of thinking that it mentions; None if there are none."""
        self.marks = (self.thinking or Thinking.THINK).value
        """The marks that an answer may have. Some models write the usual ones although their template has none."""
        self.stops = PLAIN_STOPS if source is None else ()
        """The stop strings that an answer needs besides the model's own stop tokens."""
        self._templates = {text: _compiled(text) for text in (self.source, self._tool_use)}
        self._tokens = {"bos_token": bos, "eos_token": eos}

    def prompt(
        self,
        messages: Messages,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> Rendered:
        """The prompt for OpenAI's chat messages.

        continue_final_message: the answer continues the last message, which is the assistant's.
        variables: further ones of the template, such as `tools` or `enable_thinking`.
        Raises RequestError when a message is malformed or the template refuses the conversation.
        """
        told = [template_message(index, message) for index, message in enumerate(messages)]
        if not continue_final_message:
            text = self._rendered(told, add_generation_prompt, variables)
            return Rendered(text, self.marks.end_of(text, ""))
        *before, last = told
        said = self._said(last)
        text = self._continued(before, last, said, variables)
        return Rendered(text, self.marks.end_of(text, said))

    def render(self, messages: Messages, **options: Any) -> str:
        """The text of the prompt."""
        return self.prompt(messages, **options).text

    def _said(self, message: Message) -> str:
        """What a message says. One that has only thought so far has not closed its thinking."""
        thought = message.get("reasoning_content")
        text: str = message["content"]
        return self.marks.begin + thought if isinstance(thought, str) and not text.strip() else text

    def _continued(self, before: list[Message], last: Message, said: str, variables: Mapping[str, Any]) -> str:
        """The prompt that ends where the last message does. said: what it says, perhaps in thinking."""
        thinks = self.marks.end_of(said, said).is_thinking
        if thinks or not said.strip():
            # No template knows messages that end in thinking; what the model has seen before them is the usual prompt.
            asked = {"enable_thinking": True, "thinking": True} if thinks else {}
            text = self._rendered(before, True, asked | dict(variables))
            is_open = thinks and self.marks.end_of(text, "").is_thinking
            return text + (said.partition(self.marks.begin)[2].lstrip() if is_open else said.lstrip())
        text = self._rendered([*before, {**last, "content": said + _HERE}], False, variables)
        text, found, _ = text.rpartition(_HERE)
        if not found or _HERE in text:
            raise RequestError("The model's chat template cannot continue the last message.", param="messages")
        return text

    def _rendered(self, messages: list[Message], add_generation_prompt: bool, variables: Mapping[str, Any]) -> str:
        source = self._tool_use if variables.get("tools") else self.source
        known = {
            "tools": None,  # templates ask whether they are none, not whether they are defined
            "documents": None,
            **variables,
            **self._tokens,
            "add_generation_prompt": add_generation_prompt,
        }
        chat = [with_fitting_ids(self._message(source, message), self.calls) for message in messages]
        offer = offered(tools, self.calls) if (tools := variables.get("tools")) and "tools" not in source else ""
        *others, last = _ways(source, chat, offer)
        for way in others:
            with suppress(RequestError):  # the next way may do, and the last one says what is wrong
                prompt = self._filled(source, {**known, "messages": way})
                if offer in prompt:
                    return prompt
        return self._filled(source, {**known, "messages": last})

    def _filled(self, source: str, variables: Mapping[str, Any]) -> str:
        try:
            return self._templates[source].render(variables)
        except _RENDERING_ERRORS as error:
            raise RequestError(
                f"The model's chat template cannot render these messages: {error}.", param="messages"
            ) from error

    def _message(self, source: str, message: Message) -> Message:
        """A message as this source expects it."""
        if message["role"] == "developer" and "developer" not in source:
            return {**message, "role": "system"}  # OpenAI's newer name for it
        return recalled(message, self.marks, source) if message["role"] == "assistant" else message


def _ways(source: str, chat: Chat, offer: str) -> list[Chat]:
    """The ways in which a template may take a chat, best first. offer: what it does not present, and must be told."""
    ways = [chat]
    if "tool_calls" not in source:
        ways = [in_words(chat)]
    elif any("tool_calls" in message for message in chat):
        ways.append(with_arguments_as_text(chat))
    return [told for way in ways for told in told_of(way, offer)] if offer else ways


def _compiled(source: str) -> jinja2.Template:
    if len(source) > _LONGEST:
        raise ModelError(f"The model's chat template is longer than {_LONGEST} characters.")
    try:
        return _ENVIRONMENT.from_string(source)
    except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError, ArithmeticError) as error:
        # Jinja makes Python of it, which refuses what is nested too deeply in ways of its own.
        raise ModelError(f"The model's chat template is broken: {' '.join(str(error).split())}.") from error


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks the assistant's words for training; here its body just
    renders.
    """

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes, which Jinja's own filter adds and models were not trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise RequestError(message, param="messages")


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


_ENVIRONMENT = _environment()
