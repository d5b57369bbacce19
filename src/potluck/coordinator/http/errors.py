"""Errors in OpenAI's form, and the HTTP status of each."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from potluck.errors import Busy, PotluckError, RequestError, Unavailable


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


def error_response(_: Request, error: Exception) -> Response:
    """Starlette's handler for PotluckError."""
    assert isinstance(error, PotluckError)
    if isinstance(error, RequestError):
        headers = {} if error.retry_s is None else {"Retry-After": str(math.ceil(error.retry_s))}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(error_json(error), error.status, headers)
    if isinstance(error, Unavailable):
        return unavailable(error, {})
    return JSONResponse(error_json(error), 500)


async def http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for HTTPException: wrong methods and the like, in OpenAI's words as well."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    message = f"{request.url.path} takes {headers['Allow']} only." if "Allow" in headers else error.detail
    return JSONResponse(error_json(RequestError(message)), error.status_code, headers)


async def fault(_: Request, error: Exception) -> Response:
    """Starlette's handler for what nobody expected. The server writes it into the log."""
    return JSONResponse(error_json(PotluckError("The coordinator has failed here: its log says how.")), 500)


async def deny(scope: Scope, receive: Receive, send: Send, error: PotluckError) -> None:
    """Answer a request, or one for a web-socket, with the error."""
    await error_response(Request({**scope, "type": "http"}), error)(scope, receive, send)


def unavailable(error: Unavailable, more: dict[str, Any]) -> Response:
    """The reply for an error of the swarm. more: further fields of the error."""
    body = error_json(error)
    status = 429 if isinstance(error, Busy) else 503
    told = msgspec.json.encode({"error": {**body["error"], **more}})
    return Response(told, status, {"Retry-After": "5"}, media_type="application/json")
