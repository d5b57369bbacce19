"""The HTTP API on top of answers that a test prescribes, for the official clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from potluck.coordinator.generation.job import Delta, Job
from potluck.coordinator.http.auth import Caller
from potluck.coordinator.http.doors.doors import Doors
from potluck.coordinator.http.errors import error_response, http_error
from potluck.coordinator.http.models import Models
from potluck.coordinator.http.openai import OpenAI
from potluck.coordinator.http.routes import routes_of
from potluck.coordinator.http.service import Service
from potluck.coordinator.text.encoder import PlainEncoder
from potluck.coordinator.text.template import ChatTemplate
from potluck.errors import PotluckError

Script = list[Delta | Exception | Callable[[], None]]
"""An answer, with what happens while it is made."""

CONTEXT = 1000
TEMPLATE = """\
{%- for message in messages %}
    {{- '[' + message.role + '] ' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- ' ' + call.id + '=' + call.function.name + (call.function.arguments | tojson) }}
    {%- endfor %}
    {{- ' for ' + message.tool_call_id if message.tool_call_id else '' }}
    {{- '\\n' }}
{%- endfor %}
{%- for tool in tools or [] %}
    {{- 'tool ' + tool.function.name + '\\n' }}
{%- endfor %}
{%- if enable_thinking is defined %}{{- 'thinks: ' + enable_thinking | string + '\\n' }}{%- endif %}
{#- <tool_call>{"name": …, "arguments": …}</tool_call> #}"""
"""Shows everything that a model may be told."""


class Bytes:
    """A tokenizer of one token a byte."""

    vocabulary = 256
    stop_ids = frozenset({0})
    bos = eos = ""
    chat_template = None
    tool_template = None

    def encode(self, text: str, *, special: bool, bos: bool) -> list[int]:
        return list(text.encode())

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return bytes([token])

    def name(self, token: int) -> str:
        return self.piece(token).decode("utf-8", "replace")


class Scripted:
    """A coordinator whose answers are prescribed, one script an answer. jobs: what it was asked for.

    app: it serves its API to anybody.
    """

    def __init__(self, *scripts: Script) -> None:
        self.jobs: list[Job] = []
        self.now = 0.0
        self._scripts = [*scripts]
        service = Service(
            self._answer, Bytes(), PlainEncoder(Bytes(), ChatTemplate(TEMPLATE)), "tiny", CONTEXT, 1, embedded=256
        )
        handlers: Any = {PotluckError: error_response, HTTPException: http_error}
        routes = routes_of(OpenAI(Models(service)), Doors(Models(service), lambda: self.now))
        self.app = Starlette(routes=routes, exception_handlers=handlers)

    @property
    def prompts(self) -> list[str]:
        return [bytes(job.prompt).decode() for job in self.jobs]

    def http(self, account: str = "ann") -> AbstractAsyncContextManager[httpx2.AsyncClient]:
        """A client of this account; "" is nobody's."""
        return _client(_of_account(self.app, Caller(account, anonymous=not account)))

    async def _answer(self, job: Job) -> AsyncGenerator[Delta, None]:
        self.jobs.append(job)
        for item in self._scripts.pop(0):
            match item:
                case Delta():
                    yield item
                case Exception():
                    raise item
                case _:
                    item()


@asynccontextmanager
async def _client(app: ASGIApp) -> AsyncGenerator[httpx2.AsyncClient, None]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://potluck") as client:
        yield client


def _of_account(app: ASGIApp, caller: Caller) -> ASGIApp:
    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["caller"] = caller
        await app(scope, receive, send)

    return told


def says(*texts: str, finish: str = "stop", stopped: str | None = None) -> Script:
    """A script: these pieces, then the end."""
    return [*map(Delta, texts), Delta(finish=finish, stopped=stopped)]


def calls(name: str, arguments: str) -> str:
    """A call as the model writes it."""
    return f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'
