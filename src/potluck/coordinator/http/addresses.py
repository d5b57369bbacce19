"""The addresses that clients make of a base URL: which slashes say nothing, and what a wrong base URL should be."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from potluck.coordinator.http.endpoint import Endpoint
from potluck.coordinator.http.errors import MESSAGES, deny
from potluck.errors import RequestError

_LONGEST = 200
"""The most characters of a path that are repeated."""


class Addresses:
    """ASGI middleware before all that look at the path: it takes out of it the slashes that clients add by habit.

    To redirect them would be worse: many clients do not follow with a body, and behind a proxy that speaks TLS the
    address is not known here.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            scope = {**scope, "path": without_slashes(scope["path"])}
        await self._app(scope, receive, send)


def without_slashes(path: str) -> str:
    """The path without a slash at its end, and without two in a row."""
    return "/" + "/".join(filter(None, path.split("/")))


class Nowhere:
    """Answers requests for paths at which there is nothing."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._patterns = [compile_path(endpoint.pattern)[0] for endpoint in endpoints]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        message = f"There is nothing at {path[:_LONGEST]}"
        if meant := self.meant_by(path):
            message += f", but at {meant}{_advice(meant)}"
            scope = {**scope, "path": meant}  # whoever meant it reads errors in its form
        await deny(scope, receive, send, RequestError(f"{message}.", status=404))

    def meant_by(self, path: str) -> str:
        """The path of an endpoint that a client with a wrong base URL may have meant, or ""."""
        named = path.rpartition("/v1/")[2].strip("/")
        return next((one for one in (f"/v1/{named}", f"/{named}") if self._is_known(one)), "")

    def _is_known(self, path: str) -> bool:
        return len(path) <= _LONGEST and any(pattern.match(path) for pattern in self._patterns)


def _advice(meant: str) -> str:
    """What the base URL should be of a client that means this path."""
    if meant.startswith(MESSAGES):
        return ": the base URL for Anthropic's clients is the coordinator's, without /v1"
    return ": the base URL for OpenAI's clients is the coordinator's with /v1" if meant.startswith("/v1/") else ""
