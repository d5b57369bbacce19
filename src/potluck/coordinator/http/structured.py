"""The fields of a request that prescribe the structure of its answer, in the words of OpenAI, vLLM and llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

from potluck.coordinator.generation.structure import Kind, Structure
from potluck.errors import RequestError

_ANY_OBJECT = {"type": "object"}


class JsonSchema(Struct, frozen=True, rename={"definition": "schema"}):
    """A JSON schema. name and strict are OpenAI's; the answer follows the schema whatever they say."""

    definition: dict[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct, frozen=True, rename={"definition": "schema"}):
    """The form of the answer: any text, a JSON object, or JSON that matches a schema.

    schema: where llama.cpp's server and others have it; OpenAI has it in `json_schema`.
    """

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    definition: dict[str, Any] | None = None

    @property
    def demanded(self) -> dict[str, Any] | None:
        """The schema that the answer must follow; None allows any text."""
        if self.type == "text":
            return None
        if self.type == "json_schema" and self.json_schema is None and self.definition is None:
            raise RequestError("response_format.json_schema is missing.", param="response_format")
        within = self.json_schema.definition if self.json_schema else None
        return next((schema for schema in (within, self.definition) if schema is not None), _ANY_OBJECT)


class StructuredOutputs(Struct, frozen=True):
    """vLLM's field for everything but JSON that OpenAI's fields prescribe. One of these is given."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None


class Structured(Struct, frozen=True, kw_only=True):
    """The fields, at most one of which is given."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None

    @property
    def structure(self) -> Structure | None:
        """The structure that the answer must have; None allows any text. Raises RequestError when two are given."""
        given = [*self._given()]
        if len(given) > 1:
            names = list(dict.fromkeys(structure.param for structure in given))
            told = (
                f"{names[0]} and {names[1]} both prescribe" if len(names) > 1 else f"Two fields of {names[0]} prescribe"
            )
            message = f"{told} the answer's structure: give one of them."
            raise RequestError(message, param=given[1].param)
        return given[0] if given else None

    def _given(self) -> Iterator[Structure]:
        form = self.response_format.demanded if self.response_format else None
        if form is not None:
            yield Structure(Kind.SCHEMA, form, "response_format")
        if self.structured_outputs is not None:
            yield from self._outputs(self.structured_outputs)
        yield from _each(self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar, "guided_{}")
        if self.json_schema:
            yield Structure(Kind.SCHEMA, self.json_schema, "json_schema")
        if self.grammar:  # clients of llama.cpp's server send empty ones for none
            yield Structure(Kind.GRAMMAR, self.grammar, "grammar")

    def _outputs(self, given: StructuredOutputs) -> Iterator[Structure]:
        if given.structural_tag is not None:
            message = "structured_outputs.structural_tag is not supported: give json, regex, choice or grammar."
            raise RequestError(message, param="structured_outputs")
        schema = _ANY_OBJECT if given.json is None and given.json_object else given.json
        yield from _each(schema, given.regex, given.choice, given.grammar, "structured_outputs")


def _each(
    schema: dict[str, Any] | str | None, regex: str | None, choice: list[str] | None, grammar: str | None, field: str
) -> Iterator[Structure]:
    """The structures that are given. field: the name of the field, or of one for each kind, with a place for it."""
    if schema is not None:
        param = field.format("json")
        yield Structure(Kind.SCHEMA, _schema(schema, param), param)
    if regex:  # an empty one is none, as `grammar` is
        yield Structure(Kind.REGEX, regex, field.format("regex"))
    if choice:
        yield Structure(Kind.CHOICE, choice, field.format("choice"))
    if grammar:
        yield Structure(Kind.GRAMMAR, grammar, field.format("grammar"))


def _schema(given: dict[str, Any] | str, param: str) -> dict[str, Any]:
    """The schema, which vLLM's clients may give as text."""
    if isinstance(given, dict):
        return given
    try:
        return msgspec.json.decode(given, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise RequestError(f"The schema in {param} is not a JSON object.", param=param) from error
