"""The HTTP API as an OpenAPI 3.1 document, for tools that make clients and for tests that try everything."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from potluck import __version__
from potluck.coordinator.http.endpoint import Access, Endpoint, Json, forms_of

_REF = "#/components/schemas/{name}"
_NUMBER: Json = {"type": "string", "pattern": "^([-+.0-9eE]+|[nN][uU][lL][lL])$"}
_TRUTH: Json = {"type": "string", "pattern": "^([01]|[tT][rR][uU][eE]|[fF][aA][lL][sS][eE]|[nN][uU][lL][lL])$"}
_WRITTEN = {"integer": [_NUMBER], "number": [_NUMBER], "boolean": [{"enum": [0, 1]}, _TRUTH]}
"""The other ways in which a value of a type may be written, by the type."""
_VALUES = ("enum", "const", "default", "required")
"""The parts of a schema that are no schemas."""
_TURNED_AWAY = (401, 403, 429)
"""The errors with which `Auth` may answer a request: no key, a wrong one, too many requests."""


class Document:
    """Serves the document."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._encoded = msgspec.json.encode(describe(endpoints))

    async def give(self, _: Request) -> Response:
        """GET /openapi.json"""
        return Response(self._encoded, media_type="application/json")


def describe(endpoints: Iterable[Endpoint]) -> Json:
    """The document."""
    endpoints = list(endpoints)
    bodies = {endpoint.body.__name__ for endpoint in endpoints if endpoint.body is not None}
    taken = _components([endpoint.body for endpoint in endpoints if endpoint.body is not None])
    types = [kind for endpoint in endpoints for kind in endpoint.types]
    _, components = msgspec.json.schema_components(types, ref_template=_REF)
    paths: dict[str, Json] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Potluck", "version": __version__, "summary": "A language model that many machines run."},
        "paths": paths,
        "components": {
            "schemas": {
                name: _lenient(_nullable(schema) if name in bodies else schema) if name in taken else schema
                for name, schema in components.items()
            },
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def _operation(endpoint: Endpoint) -> Json:
    described: Json = {"summary": endpoint.summary, "responses": _responses(endpoint)}
    if endpoint.parameters:
        described["parameters"] = list(endpoint.parameters)
    if endpoint.body is not None:
        described["requestBody"] = {"required": True, "content": _json_of(endpoint.body)}
    return described


def _responses(endpoint: Endpoint) -> Json:
    content = {media: {} for media in endpoint.media} if endpoint.answer is None else _content_of(endpoint.answer)
    if endpoint.events is not None:
        content["text/event-stream"] = {"schema": _event_of(endpoint)}
    turned_away = () if endpoint.access is Access.PUBLIC else _TURNED_AWAY
    told = [
        (200, content),
        *([(206, content)] if 416 in endpoint.plain else []),
        *((status, _json_of(endpoint.error)) for status in (*endpoint.errors, *turned_away)),
        *((status, _content_of(str)) for status in endpoint.plain),
        *((status, {}) for status in endpoint.bare),
    ]
    return {str(status): {"description": HTTPStatus(status).phrase, "content": content} for status, content in told}


def _content_of(answer: Any) -> Json:
    return {"text/plain": {"schema": {"type": "string"}}} if answer is str else _json_of(answer)


def _json_of(kind: Any) -> Json:
    return {"application/json": {"schema": _schema_of(kind)}}


def _schema_of(*kinds: Any) -> Json:
    """The schema of what has one of these types."""
    forms = [form for kind in kinds for form in forms_of(kind)]
    schemas, _ = msgspec.json.schema_components(forms, ref_template=_REF)
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def _event_of(endpoint: Endpoint) -> Json:
    """A server-sent event. An answer's event is a chunk, the error that broke it off, or the end."""
    if endpoint.body is None or not endpoint.marks_end:
        told = {"type": "string", "contentMediaType": "application/json", "contentSchema": _schema_of(endpoint.events)}
        return {"type": "object", "properties": {"data": told}, "required": ["data"]}
    schema = _schema_of(endpoint.events, endpoint.error)
    chunk = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    return {"type": "object", "properties": {"data": {"anyOf": [{"const": "[DONE]"}, chunk]}}, "required": ["data"]}


def _nullable(schema: Json) -> Json:
    """A request's schema in which fields may be `null`, which is OpenAI's way to say "not given"."""
    fields = {
        name: field if name in schema["required"] or {"type": "null"} in field.get("anyOf", ()) else _or_null(field)
        for name, field in schema["properties"].items()
    }
    return {**schema, "properties": fields}


def _or_null(field: Json) -> Json:
    return {"anyOf": [field, {"type": "null"}]}


def _components(kinds: list[Any]) -> frozenset[str]:
    """The names of the components that these types consist of."""
    return frozenset(msgspec.json.schema_components(kinds)[1])


def _lenient(schema: Any) -> Any:
    """A request's schema, in which numbers and truth values may also be written as `parsing.parse` reads them."""
    if isinstance(schema, list):
        may_be_text = any(isinstance(one, dict) and one.get("type") == "string" for one in schema)
        return schema if may_be_text else [*map(_lenient, schema)]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if isinstance(kind, str) and kind in _WRITTEN:
        return {"anyOf": [schema, *_WRITTEN[kind]]}
    return {name: value if name in _VALUES else _lenient(value) for name, value in schema.items()}
