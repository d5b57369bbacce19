"""Requests that other coordinators of the fleet should rather answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from potluck.coordinator.fleet.records import Record

_MODEL = "answered_here"
"""The name in a request's state of the model that is asked here."""


class Elsewhere(Exception):
    """Stands for an answer that other coordinators should give. targets: the best first. name: of the model.

    here: whether it can be answered here if none of them does.
    seeks: whether it is not known which of them has what is asked for, so that those that do not have it are skipped.
    """

    def __init__(self, targets: Sequence[Record], name: str = "", *, here: bool = True, seeks: bool = False) -> None:
        super().__init__(name)
        self.targets = targets
        self.name = name
        self.here = here
        self.seeks = seeks


class Staying:
    """ASGI middleware: counts the requests that are answered here, until their answers have ended."""

    def __init__(self, app: ASGIApp, under_way: Counter[str]) -> None:
        self._app = app
        self._under_way = under_way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            if (name := scope.get("state", {}).pop(_MODEL, None)) is not None:
                self._under_way[name] -= 1


def answered_here(request: HTTPConnection, name: str, under_way: Counter[str]) -> None:
    """Count a request that is answered here. name: the first one of the model."""
    if not hasattr(request.state, _MODEL):
        setattr(request.state, _MODEL, name)
        under_way[name] += 1


def stay_here(request: HTTPConnection) -> None:
    """Let a request be answered here, because another coordinator sent it, or because none takes it."""
    request.state.stays = True


def stays_here(request: HTTPConnection) -> bool:
    """Whether a request must be answered here."""
    return bool(getattr(request.state, "stays", False))
