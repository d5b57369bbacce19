"""Which dialects there are, and which one a chat template writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from potluck.coordinator.text.calls.dialect import Dialect
from potluck.coordinator.text.calls.json_dialects import (
    DeepSeek,
    DeepSeekBare,
    Fenced,
    Generic,
    Harmony,
    Hermes,
    Llama,
    Mistral,
    MistralArgs,
)
from potluck.coordinator.text.calls.listed import Granite, Jamba, Kimi, Lfm, Nemotron
from potluck.coordinator.text.calls.pythonic import Pythonic
from potluck.coordinator.text.calls.stream import CallStream, Tools
from potluck.coordinator.text.calls.tags import Coder, Glm

_ALL: Sequence[Dialect] = (
    MistralArgs(),
    Mistral(),
    DeepSeekBare(),
    DeepSeek(),
    Harmony(),
    Kimi(),
    Granite(),
    Nemotron(),
    Jamba(),
    Lfm(),
    Coder(),
    Glm(),
    Hermes(),
    Pythonic(),
    Llama(),
    Fenced(),
    Generic(),
)
"""A template belongs to the first that claims it, so that what is special comes before what is general."""

_BY_NAME = {dialect.name: dialect for dialect in _ALL}

CONTROLS = frozenset(control for dialect in _ALL for control in dialect.controls)
"""The marks of calls that are control tokens in some vocabularies."""


def dialect_of(template: str) -> Dialect:
    """The dialect in which a chat template writes calls; the generic one if it writes none that is known."""
    return next(dialect for dialect in _ALL if dialect.is_of(template))


def dialect_named(name: str) -> Dialect:
    return _BY_NAME[name]


@dataclass(frozen=True)
class Offer:
    """What a request lets a model call, in which dialect. once: one call at most. demanded: nothing but calls.

    Calls in other dialects are found too, because models mix them.
    """

    tools: Tools
    dialect: Dialect
    once: bool = False
    demanded: bool = False

    def stream(self) -> CallStream:
        """What separates the calls from the text of one answer."""
        return CallStream(self.tools, _ALL, once=self.once)
