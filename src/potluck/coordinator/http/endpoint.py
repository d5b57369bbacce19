"""An endpoint of the HTTP API as data, from which routing, access rules and the OpenAPI document are made."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from types import UnionType
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from potluck.coordinator.http.answers import Error

Json = dict[str, Any]


class Access(Enum):
    """The callers that may use an endpoint, among those whom the swarm's policy does not turn away."""

    PUBLIC = "whoever reaches the coordinator"
    ANY = "every caller, in an open swarm also one without an API key"
    KEY = "callers with an API key"
    WEIGHTS = "callers with an API key, and nodes with a ticket"
    ADMIN = "callers with an admin key"


@dataclass(frozen=True)
class Endpoint:
    """One method of one path.

    name: both, as in "GET /status"; the path may name Starlette's convertors, as in "/files/{name:path}".
    handler: a method of the class under which the endpoint stands in the table.
    answer: the type of the JSON that it gives, or a union of several; str: text; None: bytes of the types in `media`.
    body: the type of the JSON that it takes. events: what it streams, always or where a body asks for it.
    errors: the statuses that it answers with errors, besides those with which `Auth` turns requests away.
    error: the type of these errors. marks_end: whether a stream that a body asks for ends with OpenAI's end mark.
    plain: the statuses that it answers with a line of text. bare: those that it answers without a body.
    """

    name: str
    handler: Callable[[Any, Request], Awaitable[Response]]
    access: Access
    summary: str
    answer: Any = None
    body: Any = None
    events: Any = None
    parameters: tuple[Json, ...] = ()
    errors: tuple[int, ...] = ()
    error: Any = Error
    marks_end: bool = True
    plain: tuple[int, ...] = ()
    bare: tuple[int, ...] = ()
    media: tuple[str, ...] = ("application/octet-stream",)

    @property
    def method(self) -> str:
        return self.name.partition(" ")[0]

    @property
    def pattern(self) -> str:
        """The path in Starlette's form."""
        return self.name.partition(" ")[2]

    @property
    def path(self) -> str:
        """The path in the form of people and of OpenAPI."""
        return re.sub(r":\w+}", "}", self.pattern)

    @property
    def types(self) -> list[Any]:
        """The types of its JSON."""
        kinds = (self.answer, self.body, self.events, self.error)
        return [form for kind in kinds if kind not in (None, str) for form in forms_of(kind)]


def parameter(place: str, name: str, meaning: str, schema: Json) -> Json:
    """A parameter in OpenAPI's form. place: "path", "query" or "header"."""
    return {"in": place, "name": name, "description": meaning, "required": place == "path", "schema": schema}


def forms_of(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    return kind.__args__ if isinstance(kind, UnionType) else (kind,)
