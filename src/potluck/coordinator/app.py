"""The coordinator as a web application: pages, the OpenAI API, the swarm's state, the model's bytes, and the nodes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute

from potluck.coordinator.compose import compose_model
from potluck.coordinator.gateway.terms import Terms
from potluck.coordinator.http.admin import Admin
from potluck.coordinator.http.auth import Auth, caller_of
from potluck.coordinator.http.errors import error_json, error_response
from potluck.coordinator.http.office import Office
from potluck.coordinator.http.openai import Service
from potluck.coordinator.http.openapi import describe
from potluck.coordinator.http.pages import Pages
from potluck.coordinator.http.research import Research
from potluck.coordinator.members.ledger import Ledger
from potluck.coordinator.model_choice import DEFAULT_CONTEXT, choose_engine
from potluck.coordinator.relay.trace import Hop, chrome, summary
from potluck.coordinator.sessions.claim import Claim, Rank, weight_of
from potluck.coordinator.watching.history import History
from potluck.coordinator.watching.live import Live
from potluck.coordinator.watching.metrics import Metrics, RequestCount
from potluck.coordinator.watching.status import account_status
from potluck.errors import PotluckError, RequestError
from potluck.models.manifest import Manifest
from potluck.models.sources import Found, local_source
from potluck.types import Attention, EngineKind, Priority, Quantize, RowFormat

DEFAULT_AUDIT = 0.02


@dataclass(frozen=True)
class ServeConfig:
    """model: what `find_model` found. engine, quantize: None takes the first that can run it.

    context: positions a session may have; None: the model's, up to DEFAULT_CONTEXT. audit: the share of all
    stage-steps that other nodes compute again.
    """

    model: Found
    engine: EngineKind | None = None
    quantize: Quantize | None = None
    attention: Attention = Attention.EXACT
    rows: RowFormat = RowFormat.F32
    context: int | None = None
    audit: float = DEFAULT_AUDIT


def make_app(config: ServeConfig, manifest: Manifest, office: Office) -> Starlette:
    """The application for one model, for those whom the office lets in.

    Raises ModelError when the engine cannot run it, or its tokenizer or template cannot be read.
    """
    context = min(manifest.context, config.context or DEFAULT_CONTEXT)
    engine, quantize = choose_engine(manifest, config.engine, config.quantize)
    terms = Terms(manifest.digest, engine, quantize, config.attention, config.rows, context)
    model = compose_model(manifest, config.model, terms, config.audit, office.reception, office.books)
    running, ledger = model.running, office.books.ledger
    swarm, relay = running.swarm, running.relay
    service = Service(
        model.generation.answer,
        model.tokenizer,
        model.template,
        manifest.name,
        context,
        int(time.time()),
        partial(_claim, ledger),
    )
    metrics = Metrics(manifest.name, manifest.digest, swarm, running.audits, running.queue.waiting)
    hub, files = config.model.hub, local_source(config.model.path)
    encoded, described = manifest.encode(), msgspec.json.encode(describe())

    history = History(model.figures)
    live = Live(model.status, history.beside)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with office.books.kept(), history.kept():
            yield

    async def status(_: Request) -> Response:
        return Response(_readable(model.status()), media_type="application/json")

    async def give_metrics(_: Request) -> Response:
        return metrics.response()

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def account(request: Request) -> Response:
        """What the caller's account has earned and spent, and the nodes that earn for it."""
        name = caller_of(request).account
        nodes = await asyncio.to_thread(office.members.of_account, name)
        body = msgspec.json.encode(account_status(name, ledger.account(name), ledger.pending(name), nodes))
        return Response(_readable(body), media_type="application/json")

    async def trace(request: Request) -> Response:
        """Session numbers, positions and times; no texts and no tokens."""
        asked = relay.trace.hops(_number(request, "session"), _number(request, "after") or 0)
        names = {number: node.name for number, node in swarm.nodes.items()}
        # On a thread: a long timeline takes a good part of a second, and frames do not wait for it.
        body = await asyncio.to_thread(_timeline, asked, names, relay.trace.count)
        return Response(body, media_type="application/json")

    async def give_description(_: Request) -> Response:
        return Response(described, media_type="application/json")

    async def give_manifest(_: Request) -> Response:
        return Response(encoded, media_type="application/json")

    async def give_file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in manifest.files:
            raise RequestError(f"The model has no file {name!r}.", status=404)
        if hub is not None:
            return RedirectResponse(hub.url(name))
        return FileResponse(files.folder / name, media_type="application/octet-stream")

    routes = [
        *Pages().routes(),
        Route("/health", health),
        Route("/openapi.json", give_description),
        Route("/status", status),
        Route("/metrics", give_metrics),
        Route("/status/events", live.events),
        Route("/trace", trace),
        Route("/manifest", give_manifest),
        Route("/files/{name:path}", give_file),
        Route("/v1/models", service.models),
        Route("/v1/models/{model:path}", service.one_model),
        Route("/v1/chat/completions", service.chat, methods=["POST"]),
        Route("/v1/completions", service.complete, methods=["POST"]),
        Route("/v1/account", account),
        *Research(service, model.hidden_states).routes(),
        *Admin(office, running.moderation).routes(),
        WebSocketRoute("/node", running.gateway),
    ]
    middleware = [
        Middleware(RequestCount, tally=swarm.tally),
        Middleware(Auth, policy=office.policy, tickets=running.tickets),
    ]
    handlers = {PotluckError: error_response, HTTPException: _http_error}
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers=handlers,  # type: ignore[arg-type]
        lifespan=lifespan,
    )
    app.state.stops = (running.stop, live.stop)
    return app


def _claim(ledger: Ledger, request: Request, priority: Priority) -> Claim:
    """What its account has earned and not spent gives a request weight."""
    caller = caller_of(request)
    rank = Rank.of(priority, anonymous=caller.anonymous)
    return Claim(caller.account, rank, weight_of(ledger.balance(caller.account)))


def _readable(body: bytes) -> bytes:
    """JSON for people who use curl: indented, but a list of numbers on one line."""
    indented = msgspec.json.format(body, indent=2) + b"\n"
    return re.sub(rb"\[[\d,\s]+\]", lambda found: b" ".join(found[0].split()), indented)


def _number(request: Request, name: str) -> int | None:
    """A parameter of the query."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,18}", text):
        raise RequestError(f"{name} must be a number from 0 on.", param=name)
    return int(text)


def _timeline(hops: Sequence[Hop], names: dict[str, str], count: int) -> bytes:
    """What viewers read, and beside it a sentence, and how many hops there were so far."""
    return msgspec.json.encode({"summary": summary(hops, names), "count": count, **chrome(hops, names)})


async def _http_error(_: Request, error: HTTPException) -> Response:
    """Unknown paths and methods, in OpenAI's words as well."""
    return JSONResponse(error_json(RequestError(error.detail)), error.status_code, dict(error.headers or {}))
