"""The HTTP API as an OpenAPI 3.1 document, for tools that make clients and for tests that try everything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from potluck import __version__
from potluck.coordinator.http.admin import MadeInvite, MadeKey, Marks, NewInvite, NewKey, Revoked
from potluck.coordinator.http.answers import (
    ChatChunk,
    ChatCompletion,
    Completion,
    Error,
    Health,
    InviteList,
    KeyList,
    Model,
    Models,
    NodeList,
    Text,
    Timeline,
    TokenizerInfo,
    Tokens,
)
from potluck.coordinator.http.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    HiddenStatesRequest,
    TokenizeRequest,
)
from potluck.coordinator.members.keys import Key
from potluck.coordinator.members.members import Member
from potluck.coordinator.watching.status import AccountStatus, Status, StatusEvent
from potluck.models.manifest import Manifest

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"


@dataclass(frozen=True)
class Operation:
    """One method of one path. answer: the type of the JSON that it gives; str: text; None: bytes of these media types.

    body: the type of the JSON that it takes. events: what it streams, where a body asks for it or always.
    errors: the statuses that it answers with OpenAI's errors, besides those that every door has.
    plain: those that it answers with a line of text. bare: with nothing.
    public: whoever reaches the coordinator may ask.
    """

    method: str
    path: str
    summary: str
    answer: Any = None
    body: Any = None
    events: Any = None
    parameters: tuple[Json, ...] = ()
    errors: tuple[int, ...] = ()
    plain: tuple[int, ...] = ()
    bare: tuple[int, ...] = ()
    public: bool = False
    media: tuple[str, ...] = ("application/octet-stream",)

    @property
    def types(self) -> list[Any]:
        return [kind for kind in (self.answer, self.body, self.events) if kind not in (None, str)]


def _parameter(place: str, name: str, meaning: str, schema: Json) -> Json:
    return {"in": place, "name": name, "description": meaning, "required": place == "path", "schema": schema}


_TEXT: Json = {"type": "string", "minLength": 1}
_COUNT: Json = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_DOOR = (401, 403, 429)
"""What a request may end with before it is looked at: no key, the wrong one, too many of them."""
_ASKED = (400, 404, 413, 503)
"""What a request for an answer may end with."""
_TOLD = (400, 413)
"""What a request with a body may end with."""
_ID = (_parameter("path", "id", "as it is listed", _TEXT),)

_PAGE: Json = {"public": True, "bare": (304,)}

OPERATIONS = (
    Operation("get", "/", "The dashboard and the chat", media=("text/html",), **_PAGE),
    Operation(
        "get",
        "/web/{name}",
        "What these pages consist of",
        parameters=(_parameter("path", "name", "of the file", _TEXT),),
        errors=(404,),
        media=("text/html", "text/css", "text/javascript", "image/svg+xml"),
        **_PAGE,
    ),
    Operation("get", "/openapi.json", "This document", dict[str, Any]),
    Operation("get", "/health", "Whether the coordinator is there", Health, public=True),
    Operation("get", "/status", "Who serves which layers, and who waits", Status),
    Operation("get", "/status/events", "The same once a second, as it changes", events=StatusEvent, media=()),
    Operation("get", "/metrics", "The same and more, as numbers for Prometheus", str),
    Operation(
        "get",
        "/trace",
        "Where the steps spent their time",
        Timeline,
        parameters=(
            _parameter("query", "session", "only this session", _COUNT),
            _parameter("query", "after", "leave out so many of the first hops", _COUNT),
        ),
        errors=(400,),
    ),
    Operation("get", "/manifest", "What the model consists of", Manifest),
    Operation(
        "get",
        "/files/{name}",
        "The bytes of one of the model's files, or where they are",
        parameters=(
            _parameter("path", "name", "as the manifest has it", _TEXT),
            _parameter("header", "Range", "a part of it, such as bytes=0-99", {"type": "string"}),
        ),
        errors=(404,),
        plain=(400, 416),
        bare=(307,),
    ),
    Operation("get", "/v1/models", "The model that is served", Models),
    Operation(
        "get",
        "/v1/models/{model}",
        "The same, by its name",
        Model,
        parameters=(_parameter("path", "model", "its id", _TEXT),),
        errors=(404,),
    ),
    Operation("post", "/v1/chat/completions", "Answer a chat", ChatCompletion, ChatRequest, ChatChunk, errors=_ASKED),
    Operation("post", "/v1/completions", "Continue a text", Completion, CompletionRequest, Completion, errors=_ASKED),
    Operation("get", "/tokenizer_info", "How sequences begin and end, and the template of chats", TokenizerInfo),
    Operation("post", "/tokenize", "The tokens of a text", Tokens, TokenizeRequest, errors=_TOLD),
    Operation("post", "/detokenize", "The text of tokens", Text, DetokenizeRequest, errors=_TOLD),
    Operation(
        "post",
        "/v1/hidden_states",
        "What a layer makes of each token: a safetensors file with hidden_states [n, d] and tokens [n]",
        body=HiddenStatesRequest,
        errors=_ASKED,
    ),
    Operation("get", "/v1/account", "What the caller's account has earned and spent", AccountStatus),
    Operation("get", "/v1/admin/invites", "Who may join", InviteList),
    Operation("post", "/v1/admin/invites", "Make an invite", MadeInvite, NewInvite, errors=_TOLD),
    Operation(
        "delete",
        "/v1/admin/invites/{id}",
        "Nobody comes by it any more",
        Revoked,
        parameters=(*_ID, _parameter("query", "nodes", "revoke those that came by it, too", {"enum": ["true"]})),
        errors=(404,),
    ),
    Operation("get", "/v1/admin/keys", "Who may ask", KeyList),
    Operation("post", "/v1/admin/keys", "Make an API key", MadeKey, NewKey, errors=_TOLD),
    Operation("delete", "/v1/admin/keys/{id}", "Nobody asks with it any more", Key, parameters=_ID, errors=(404,)),
    Operation("get", "/v1/admin/nodes", "The nodes that have joined so far", NodeList),
    Operation(
        "post",
        "/v1/admin/nodes/{key}",
        "Trust a node, or revoke it",
        Member,
        Marks,
        parameters=(_parameter("path", "key", "the node's public key, in hex", _TEXT),),
        errors=(*_TOLD, 404),
    ),
)


def describe(operations: Iterable[Operation] = OPERATIONS) -> Json:
    """The document."""
    operations = list(operations)
    bodies = {operation.body.__name__ for operation in operations if operation.body is not None}
    types = [Error, *(kind for operation in operations for kind in operation.types)]
    _, components = msgspec.json.schema_components(types, ref_template=_REF)
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Potluck", "version": __version__, "summary": "A language model that many machines run."},
        "paths": paths,
        "components": {
            "schemas": {name: _nullable(schema) if name in bodies else schema for name, schema in components.items()},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def _operation(operation: Operation) -> Json:
    described: Json = {"summary": operation.summary, "responses": _responses(operation)}
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _json_of(operation.body)}
    return described


def _responses(operation: Operation) -> Json:
    content = {media: {} for media in operation.media} if operation.answer is None else _content_of(operation.answer)
    if operation.events is not None:
        content["text/event-stream"] = {"schema": _event_of(operation.events, ends=operation.body is not None)}
    told = [
        (200, content),
        *([(206, content)] if 416 in operation.plain else []),
        *((status, _json_of(Error)) for status in (*operation.errors, *(() if operation.public else _DOOR))),
        *((status, _content_of(str)) for status in operation.plain),
        *((status, {}) for status in operation.bare),
    ]
    return {str(status): {"description": HTTPStatus(status).phrase, "content": content} for status, content in told}


def _content_of(answer: Any) -> Json:
    return {"text/plain": {"schema": {"type": "string"}}} if answer is str else _json_of(answer)


def _json_of(kind: Any) -> Json:
    [schema], _ = msgspec.json.schema_components([kind], ref_template=_REF)
    return {"application/json": {"schema": schema}}


def _event_of(kind: Any, *, ends: bool) -> Json:
    """A server-sent event; of an answer, which ends: a chunk, what broke it off, or the end."""
    if not ends:
        [schema], _ = msgspec.json.schema_components([kind], ref_template=_REF)
        told = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
        return {"type": "object", "properties": {"data": told}, "required": ["data"]}
    schemas, _ = msgspec.json.schema_components([kind, Error], ref_template=_REF)
    chunk = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": list(schemas)}}
    return {"type": "object", "properties": {"data": {"anyOf": [{"const": "[DONE]"}, chunk]}}, "required": ["data"]}


def _nullable(schema: Json) -> Json:
    """Of a request: `null` is OpenAI's word for "not given"."""
    fields = {
        name: field if name in schema["required"] or {"type": "null"} in field.get("anyOf", ()) else _or_null(field)
        for name, field in schema["properties"].items()
    }
    return {**schema, "properties": fields}


def _or_null(field: Json) -> Json:
    return {"anyOf": [field, {"type": "null"}]}
