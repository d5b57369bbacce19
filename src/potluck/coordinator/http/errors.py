"""Errors in OpenAI's form and in Anthropic's, and the HTTP status of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from potluck.errors import Busy, PotluckError, RequestError, StoreError, Unavailable

MESSAGES = "/v1/messages"
"""The path of Anthropic's API, and the beginning of its others."""
_ANTHROPICS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


def error_json(error: PotluckError) -> dict[str, Any]:
    """The error in OpenAI's form."""
    if isinstance(error, RequestError):
        kind = "invalid_request_error" if error.retry_s is None else "rate_limit_error"
        param, code = error.param, error.code
    elif isinstance(error, Busy):
        kind, param, code = "rate_limit_error", None, "queue_full"
    else:
        kind, param, code = "server_error", None, "unavailable" if isinstance(error, Unavailable) else None
    return {"error": {"message": str(error), "type": kind, "param": param, "code": code}}


def unfinished_json(error: PotluckError, made: list[Any]) -> dict[str, Any]:
    """The error in OpenAI's form, for an answer that broke off. made: its choices until then."""
    return {"error": {**error_json(error)["error"], "choices": made}}


def messages_error(error: PotluckError) -> dict[str, Any]:
    """The error in Anthropic's form, with OpenAI's `param`."""
    kind = _ANTHROPICS.get(status_of(error), "invalid_request_error")
    param = error.param if isinstance(error, RequestError) else None
    return {"type": "error", "error": {"type": kind, "message": str(error), "param": param}}


def status_of(error: PotluckError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, RequestError):
        return error.status
    return 429 if isinstance(error, Busy) else 503 if isinstance(error, Unavailable) else 500


def error_response(request: Request, error: Exception) -> Response:
    """Starlette's handler for PotluckError."""
    assert isinstance(error, PotluckError)
    if isinstance(error, StoreError) and error.is_away:  # what it says names the database's server, for the owner
        error = Unavailable("The coordinator's database cannot be reached: try again in a few seconds.")
    speaks_anthropic = request.scope.get("path", "").startswith(MESSAGES)
    return error_reply(error, messages_error(error) if speaks_anthropic else error_json(error))


def error_reply(error: PotluckError, body: dict[str, Any]) -> Response:
    """The reply for an error, with this body."""
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = "5"
    elif isinstance(error, RequestError):
        if error.retry_s is not None:
            headers["Retry-After"] = str(math.ceil(error.retry_s))
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
    return Response(msgspec.json.encode(body), status_of(error), headers, media_type="application/json")


async def http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for HTTPException: wrong methods and the like, in the API's words as well."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    message = f"{request.url.path} takes {headers['Allow']} only." if "Allow" in headers else error.detail
    response = error_response(request, RequestError(message, status=error.status_code))
    response.headers.update(headers)
    return response


async def fault(request: Request, _: Exception) -> Response:
    """Starlette's handler for what nobody expected. The server writes it into the log."""
    return error_response(request, PotluckError("The coordinator has failed here: its log says how."))


async def deny(scope: Scope, receive: Receive, send: Send, error: PotluckError) -> None:
    """Answer a request, or one for a web-socket, with the error."""
    request = Request({**scope, "type": "http"})
    await error_response(request, error)(scope, receive, send)


def unnamed_model(names: Sequence[str]) -> RequestError:
    """The error of a request that names none of several models. names: theirs."""
    message = f"Several models are served here, so name one: {', '.join(map(repr, names))}."
    return RequestError(message, param="model", code="model_not_found")


def unknown_model(name: str, names: Sequence[str], models: int) -> RequestError:
    """The error of a request for another model than these. names: those of so many models."""
    verb = "is" if models == 1 else "are"
    message = f"The model {name!r} is not served here; {', '.join(map(repr, names))} {verb}."
    return RequestError(message, status=404, param="model", code="model_not_found")
