"""Chat templates, which turn a list of messages into the one text that the model was trained to continue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

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


class ChatTemplate:
    """A Jinja template in the dialect of Hugging Face, run in a sandbox because it comes with the model.

    source: None gives the plain one. bos, eos: the texts that it knows as `bos_token` and `eos_token`.
    tool_use: another source for chats in which tools are offered. Raises ModelError when a source is not valid.
    """

    def __init__(self, source: str | None, bos: str = "", eos: str = "", tool_use: str | None = None) -> None:
        self.source = PLAIN if source is None else source
        self._tool_use = self.source if tool_use is None else tool_use
        self.calls = dialect_of(self._tool_use)
        self.stops = PLAIN_STOPS if source is None else ()
        """The stop strings that an answer needs besides the model's own stop tokens."""
        self._templates = {text: _compiled(text) for text in (self.source, self._tool_use)}
        self._tokens = {"bos_token": bos, "eos_token": eos}

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **kwargs: Any
    ) -> str:
        """The prompt for OpenAI's chat messages.

        kwargs: further variables of the template, such as `tools` or `enable_thinking`.
        Raises RequestError when a message is malformed or the template refuses the conversation.
        """
        source = self._tool_use if kwargs.get("tools") else self.source
        variables = {
            "tools": None,  # templates ask whether they are none, not whether they are defined
            "documents": None,
            **kwargs,
            **self._tokens,
            "add_generation_prompt": add_generation_prompt,
        }
        chat = [with_fitting_ids(_message(source, index, one), self.calls) for index, one in enumerate(messages)]
        offer = offered(tools, self.calls) if (tools := kwargs.get("tools")) and "tools" not in source else ""
        *others, last = _ways(source, chat, offer)
        for way in others:
            with suppress(RequestError):  # the next way may do, and the last one says what is wrong
                prompt = self._rendered(source, {**variables, "messages": way})
                if offer in prompt:
                    return prompt
        return self._rendered(source, {**variables, "messages": last})

    def _rendered(self, source: str, variables: Mapping[str, Any]) -> str:
        try:
            return self._templates[source].render(variables)
        except _RENDERING_ERRORS as error:
            raise RequestError(
                f"The model's chat template cannot render these messages: {error}.", param="messages"
            ) from error


def _compiled(source: str) -> jinja2.Template:
    if len(source) > _LONGEST:
        raise ModelError(f"The model's chat template is longer than {_LONGEST} characters.")
    try:
        return _ENVIRONMENT.from_string(source)
    except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError, ArithmeticError) as error:
        # Jinja makes Python of it, which refuses what is nested too deeply in ways of its own.
        raise ModelError(f"The model's chat template is broken: {' '.join(str(error).split())}.") from error


def _ways(source: str, chat: Chat, offer: str) -> list[Chat]:
    """The ways in which a template may take a chat, best first. offer: what it does not present, and must be told."""
    ways = [chat]
    if "tool_calls" not in source:
        ways = [in_words(chat)]
    elif any("tool_calls" in message for message in chat):
        ways.append(with_arguments_as_text(chat))
    return [told for way in ways for told in told_of(way, offer)] if offer else ways


def _message(source: str, index: int, given: Mapping[str, Any]) -> dict[str, Any]:
    message = template_message(index, given)
    if message["role"] == "developer" and "developer" not in source:
        message["role"] = "system"  # OpenAI's newer name for it
    return message


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
