"""All endpoints of the HTTP API in one table, from which Starlette's routes, the access rules and the document are
made.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MethodType
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, compile_path

from potluck.coordinator.fleet.status import FleetStatus
from potluck.coordinator.http import answers
from potluck.coordinator.http.account import Accounts
from potluck.coordinator.http.admin import Admin, MadeInvite, MadeKey, Marks, NewInvite, NewKey, Revoked
from potluck.coordinator.http.doors import shapes
from potluck.coordinator.http.doors.doors import Doors
from potluck.coordinator.http.doors.messages_request import CountRequest, MessagesRequest
from potluck.coordinator.http.doors.responses_request import ResponsesRequest
from potluck.coordinator.http.embeddings import Embeddings, EmbeddingsRequest
from potluck.coordinator.http.endpoint import Access, Endpoint, Json, parameter
from potluck.coordinator.http.forwarding import Forwarding
from potluck.coordinator.http.monitoring import Monitoring
from potluck.coordinator.http.openai import OpenAI
from potluck.coordinator.http.openapi import Document
from potluck.coordinator.http.pages import Pages
from potluck.coordinator.http.requests import ChatRequest, CompletionRequest
from potluck.coordinator.http.research import Research
from potluck.coordinator.http.research_requests import DetokenizeRequest, HiddenStatesRequest, TokenizeRequest
from potluck.coordinator.http.weights import Weights
from potluck.coordinator.members.keys import Key
from potluck.coordinator.members.members import Member
from potluck.coordinator.watching.live import Live
from potluck.coordinator.watching.status import AccountStatus, Status, Statuses, StatusesEvent, StatusEvent
from potluck.models.manifest import Manifest

NODE_SOCKET = "/node"
"""The nodes' web-socket. Nodes prove who they are once it is open, so nothing is asked before."""

_TEXT: Json = {"type": "string", "minLength": 1}
_COUNT: Json = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_ID = parameter("path", "id", "its id, as the list has it", _TEXT)
_ID_OF_RESPONSE = parameter("path", "id", "the response's id", _TEXT)

_WITH_BODY = (400, 413, 415)
"""The errors that a request with a body may end with."""
_FOR_ANSWER = (400, 404, 413, 415, 503)
"""The errors that a request for an answer may end with."""
_FOR_STREAM = (*_FOR_ANSWER, 409)
"""The same where an answer may be streamed, and go on."""
_LAST_EVENT = parameter(
    "header", "Last-Event-ID", "the last event that came of a stream that broke off", {"type": "string"}
)

TABLE: Mapping[type, tuple[Endpoint, ...]] = {
    Pages: (
        Endpoint(
            "GET /", Pages.home, Access.PUBLIC, "Get the dashboard and the chat", bare=(304,), media=("text/html",)
        ),
        Endpoint(
            "GET /web/{name}",
            Pages.page,
            Access.PUBLIC,
            "Get a file of these pages",
            parameters=(parameter("path", "name", "the file's name", _TEXT),),
            errors=(404,),
            bare=(304,),
            media=("text/html", "text/css", "text/javascript", "image/svg+xml"),
        ),
    ),
    Document: (Endpoint("GET /openapi.json", Document.give, Access.ANY, "Get this document", dict[str, Any]),),
    Monitoring: (
        Endpoint("GET /health", Monitoring.health, Access.PUBLIC, "Say whether the coordinator is up", answers.Health),
        Endpoint(
            "GET /status",
            Monitoring.status,
            Access.ANY,
            "Say who serves which layers, and who waits",
            Status | Statuses,
            parameters=(parameter("query", "model", "tell only of this model", {"type": "string"}),),
            errors=(404,),
        ),
        Endpoint("GET /fleet", Monitoring.members, Access.ANY, "Say which coordinators serve together", FleetStatus),
        Endpoint("GET /metrics", Monitoring.metrics, Access.ANY, "Give the swarm's figures to Prometheus", str),
        Endpoint(
            "GET /trace",
            Monitoring.trace,
            Access.ANY,
            "Show where the steps spent their time",
            answers.Timeline,
            parameters=(
                parameter("query", "model", "the model, where several are served", {"type": "string"}),
                parameter("query", "session", "show only this session", _COUNT),
                parameter("query", "after", "leave out this many of the first hops", _COUNT),
            ),
            errors=(400, 404),
        ),
    ),
    Live: (
        Endpoint(
            "GET /status/events",
            Live.events,
            Access.ANY,
            "Stream the status: once a second, as it changes",
            events=StatusEvent | StatusesEvent,
            media=(),
        ),
    ),
    Weights: (
        Endpoint("GET /manifest", Weights.manifest, Access.WEIGHTS, "List the model's tensors and files", Manifest),
        Endpoint(
            "GET /files/{name:path}",
            Weights.file,
            Access.WEIGHTS,
            "Get one of the model's files",
            parameters=(
                parameter("path", "name", "the file's name, as the manifest has it", _TEXT),
                parameter("header", "Range", "a part of the file, such as bytes=0-99", {"type": "string"}),
            ),
            errors=(404,),
            plain=(400, 416),
            bare=(307,),
        ),
    ),
    OpenAI: (
        Endpoint("GET /v1/models", OpenAI.models, Access.ANY, "List the models that are served", answers.Models),
        Endpoint(
            "GET /v1/models/{model:path}",
            OpenAI.one_model,
            Access.ANY,
            "Describe the model with this name",
            answers.Model,
            parameters=(parameter("path", "model", "the model's id", _TEXT),),
            errors=(404,),
        ),
        Endpoint(
            "POST /v1/chat/completions",
            OpenAI.chat,
            Access.ANY,
            "Answer a chat",
            answers.ChatCompletion,
            ChatRequest,
            answers.ChatChunk,
            parameters=(_LAST_EVENT,),
            errors=_FOR_STREAM,
        ),
        Endpoint(
            "POST /v1/completions",
            OpenAI.complete,
            Access.ANY,
            "Continue a text",
            answers.Completion,
            CompletionRequest,
            answers.Completion,
            parameters=(_LAST_EVENT,),
            errors=_FOR_STREAM,
        ),
    ),
    Embeddings: (
        Endpoint(
            "POST /v1/embeddings",
            Embeddings.embed,
            Access.ANY,
            "Turn texts into vectors",
            answers.Embeddings,
            EmbeddingsRequest,
            errors=_FOR_ANSWER,
        ),
    ),
    Doors: (
        Endpoint(
            "POST /v1/responses",
            Doors.response,
            Access.ANY,
            "Answer in the form of OpenAI's responses",
            shapes.ModelResponse,
            ResponsesRequest,
            shapes.ResponseEvent,
            parameters=(_LAST_EVENT,),
            errors=_FOR_STREAM,
            marks_end=False,
        ),
        Endpoint(
            "GET /v1/responses/{id}",
            Doors.kept_response,
            Access.ANY,
            "Give a response that is kept",
            shapes.ModelResponse,
            parameters=(_ID_OF_RESPONSE,),
            errors=(404,),
        ),
        Endpoint(
            "DELETE /v1/responses/{id}",
            Doors.delete_response,
            Access.ANY,
            "Forget a response that is kept",
            shapes.DeletedResponse,
            parameters=(_ID_OF_RESPONSE,),
            errors=(404,),
        ),
        Endpoint(
            "POST /v1/messages",
            Doors.message,
            Access.ANY,
            "Answer in the form of Anthropic's messages",
            shapes.AnsweredMessage,
            MessagesRequest,
            shapes.MessageEvent,
            parameters=(_LAST_EVENT,),
            errors=_FOR_STREAM,
            error=shapes.MessageError,
            marks_end=False,
        ),
        Endpoint(
            "POST /v1/messages/count_tokens",
            Doors.count_tokens,
            Access.ANY,
            "Count the tokens of a prompt for a message",
            shapes.TokenCount,
            CountRequest,
            errors=_FOR_ANSWER,
            error=shapes.MessageError,
        ),
    ),
    Research: (
        Endpoint(
            "GET /tokenizer_info",
            Research.tokenizer_info,
            Access.ANY,
            "Give the tokens that begin and end a sequence, and the chat template",
            answers.TokenizerInfo,
        ),
        Endpoint(
            "POST /tokenize",
            Research.tokenize,
            Access.ANY,
            "Turn a text into tokens",
            answers.Tokens,
            TokenizeRequest,
            errors=_WITH_BODY,
        ),
        Endpoint(
            "POST /detokenize",
            Research.detokenize,
            Access.ANY,
            "Turn tokens into a text",
            answers.Text,
            DetokenizeRequest,
            errors=_WITH_BODY,
        ),
        Endpoint(
            "POST /v1/hidden_states",
            Research.hidden_states,
            Access.ANY,
            "Give what a layer makes of each token: a safetensors file with hidden_states [n, d] and tokens [n]",
            body=HiddenStatesRequest,
            errors=_FOR_ANSWER,
        ),
    ),
    Accounts: (
        Endpoint(
            "GET /v1/account",
            Accounts.account,
            Access.KEY,
            "Say what the caller's account has earned and spent",
            AccountStatus,
        ),
    ),
    Admin: (
        Endpoint("GET /v1/admin/invites", Admin.list_invites, Access.ADMIN, "List the invites", answers.InviteList),
        Endpoint(
            "POST /v1/admin/invites",
            Admin.create_invite,
            Access.ADMIN,
            "Make an invite",
            MadeInvite,
            NewInvite,
            errors=_WITH_BODY,
        ),
        Endpoint(
            "DELETE /v1/admin/invites/{id}",
            Admin.revoke_invite,
            Access.ADMIN,
            "Revoke an invite",
            Revoked,
            parameters=(
                _ID,
                parameter("query", "nodes", "also revoke the nodes that joined with it", {"enum": ["true"]}),
            ),
            errors=(404,),
        ),
        Endpoint("GET /v1/admin/keys", Admin.list_keys, Access.ADMIN, "List the API keys", answers.KeyList),
        Endpoint(
            "POST /v1/admin/keys", Admin.create_key, Access.ADMIN, "Make an API key", MadeKey, NewKey, errors=_WITH_BODY
        ),
        Endpoint(
            "DELETE /v1/admin/keys/{id}",
            Admin.revoke_key,
            Access.ADMIN,
            "Revoke an API key",
            Key,
            parameters=(_ID,),
            errors=(404,),
        ),
        Endpoint(
            "GET /v1/admin/nodes", Admin.list_nodes, Access.ADMIN, "List the nodes that have joined", answers.NodeList
        ),
        Endpoint(
            "POST /v1/admin/nodes/{key}",
            Admin.mark_node,
            Access.ADMIN,
            "Trust a node, or revoke it",
            Member,
            Marks,
            parameters=(parameter("path", "key", "the node's public key, in hex", _TEXT),),
            errors=(*_WITH_BODY, 404),
        ),
    ),
}
"""The endpoints of each class."""
ENDPOINTS = tuple(endpoint for endpoints in TABLE.values() for endpoint in endpoints)

_ACCESS = (
    (compile_path(NODE_SOCKET)[0], Access.PUBLIC),
    *((compile_path(endpoint.pattern)[0], endpoint.access) for endpoint in ENDPOINTS),
    (re.compile("/v1/admin/"), Access.ADMIN),
)
"""The access by the pattern of a path. The last one keeps the owner's part closed where there is no endpoint, too."""


def access_of(path: str) -> Access:
    """The access of a path. One without an endpoint needs a caller, too, so that strangers do not learn what exists."""
    return next((access for pattern, access in _ACCESS if pattern.match(path)), Access.ANY)


Handler = Callable[[Request], Awaitable[Response]]


def routes_of(*owners: object, forwarding: Forwarding | None = None) -> list[Route]:
    """The routes to these objects' endpoints. Those of one path share a route, which therefore knows all methods.

    forwarding: hands requests to other coordinators of the fleet, if there is one.
    """
    paths: dict[str, dict[str, Handler]] = {}
    for owner in owners:
        for endpoint in TABLE[type(owner)]:
            paths.setdefault(endpoint.pattern, {})[endpoint.method] = MethodType(endpoint.handler, owner)
    handle = partial(_handle, forwarding)
    return [Route(path, partial(handle, handlers), methods=[*handlers]) for path, handlers in paths.items()]


async def _handle(forwarding: Forwarding | None, handlers: Mapping[str, Handler], request: Request) -> Response:
    handler = handlers["GET" if request.method == "HEAD" else request.method]
    return await (handler(request) if forwarding is None else forwarding.handle(handler, request))
