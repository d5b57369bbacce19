"""Cross-origin requests: which web pages may read the answers. Browsers ask for it before they send a key."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from potluck.coordinator.http.errors import error_response
from potluck.coordinator.http.keeping import FLEET
from potluck.errors import PotluckError, RequestError

EVERYWHERE = "*"
"""Stands for every origin."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,@?#*]+")
_METHODS = ("GET", "HEAD", "POST", "DELETE")


def checked_origin(text: str) -> str:
    """An origin as browsers write it. Raises PotluckError when the text is none, and not `*`."""
    origin = text.strip().rstrip("/").lower()
    if origin != EVERYWHERE and not _ORIGIN.fullmatch(origin):
        raise PotluckError(f"--cors takes origins such as https://chat.example.org, not {text!r}.")
    return origin


class Cors(CORSMiddleware):
    """ASGI middleware before `Auth`, which lets pages of these origins read answers, and answers preflights."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=("Retry-After", FLEET),
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a preflight, whose refusal is in OpenAI's words as well."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        message = "Pages of this origin may not ask: start potluck serve with --cors and the origin."
        return error_response(Request({"type": "http"}), RequestError(message, status=403, code="forbidden"))
