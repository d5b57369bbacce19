"""The coordinator as a web application: pages, the OpenAI API, the swarm's state, the model's bytes, and the nodes."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute

from potluck.coordinator.access import Access, caller_of
from potluck.coordinator.accounts import Ledger
from potluck.coordinator.admin import Admin
from potluck.coordinator.audits import Audits
from potluck.coordinator.claim import Claim, Rank, weight_of
from potluck.coordinator.gateway import Gateway
from potluck.coordinator.history import History
from potluck.coordinator.live import Live
from potluck.coordinator.metrics import Metrics, RequestCount
from potluck.coordinator.office import Office
from potluck.coordinator.openai import Service, error_json, error_response
from potluck.coordinator.openapi import describe
from potluck.coordinator.relay import Relay
from potluck.coordinator.research import Research
from potluck.coordinator.status import account_status, swarm_status
from potluck.coordinator.swarm import Swarm
from potluck.coordinator.tally import TokenKind
from potluck.coordinator.template import ChatTemplate
from potluck.coordinator.terms import Terms
from potluck.coordinator.tokenizer import open_tokenizer
from potluck.coordinator.tolerance import tolerance
from potluck.coordinator.trace import Hop, chrome, summary
from potluck.coordinator.verdict import Judge
from potluck.coordinator.web import Pages
from potluck.errors import ModelError, PotluckError, RequestError
from potluck.models.families import check_transformers
from potluck.models.manifest import Manifest
from potluck.models.sources import Found, local_source
from potluck.models.spans import engines_for, part_sizes
from potluck.planning.cost import Footprint
from potluck.types import CACHE_BYTES, Attention, EngineKind, Priority, Quantize, RowFormat
from potluck.wire.codec import MAX_FRAME
from potluck.wire.rows import payload_size

DEFAULT_CONTEXT = 4096
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
    engine, quantize = choose_engine(manifest, config)
    terms = Terms(manifest.digest, engine, quantize, config.attention, config.rows, context)
    swarm = Swarm(manifest.digest, footprint(manifest, engine, quantize, context, config.rows))
    relay = Relay(manifest.hidden_size, manifest.vocabulary, config.rows)
    ledger = office.books.ledger
    judge = Judge(manifest.hidden_size, config.rows, tolerance(engine, config.rows))
    audits = Audits(config.audit, judge.agree)
    gateway = Gateway(swarm, relay, terms, office.reception, ledger, audits)
    gateway.on_quarantined = office.books.shut_out
    tokenizer = open_tokenizer(config.model.path)
    template = ChatTemplate(tokenizer.chat_template, tokenizer.bos, tokenizer.eos)
    service = Service(gateway, tokenizer, template, manifest.name, context, int(time.time()), partial(_claim, ledger))
    metrics = Metrics(manifest.name, manifest.digest, swarm, audits, lambda: gateway.sessions.waiting_by_class)
    hub, files = config.model.hub, local_source(config.model.path)
    encoded, described = manifest.encode(), msgspec.json.encode(describe())

    def tell() -> bytes:
        audits, sessions = gateway.auditor.audits, gateway.sessions
        told = swarm_status(
            swarm,
            manifest.name,
            manifest.digest,
            context,
            audits,
            sessions.waiting,
            sessions.queue,
            ledger,
            engine,
        )
        return msgspec.json.encode(told)

    def figures() -> tuple[int, int, int]:
        return swarm.tally.tokens[TokenKind.GENERATED], swarm.room.streams, gateway.sessions.waiting

    history = History(figures)
    live = Live(tell, history.beside)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with office.books.kept(), history.kept():
            yield

    async def status(_: Request) -> Response:
        return Response(_readable(tell()), media_type="application/json")

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
        *Research(service).routes(),
        *Admin(office, gateway).routes(),
        WebSocketRoute("/node", gateway),
    ]
    middleware = [
        Middleware(RequestCount, tally=swarm.tally),
        Middleware(Access, policy=office.policy, tickets=gateway.tickets),
    ]
    handlers = {PotluckError: error_response, HTTPException: _http_error}
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers=handlers,  # type: ignore[arg-type]
        lifespan=lifespan,
    )
    app.state.gateway, app.state.live = gateway, live
    return app


_QUANTIZE = {
    EngineKind.LLAMACPP: (Quantize.Q8_0, Quantize.Q4_0, Quantize.F16, Quantize.BF16),
    EngineKind.TRANSFORMERS: (Quantize.NONE, Quantize.INT8, Quantize.INT4),
}
"""What each engine makes of a Hugging Face model's weights; its default first."""


def choose_engine(manifest: Manifest, config: ServeConfig) -> tuple[EngineKind, Quantize]:
    """The engine and quantization asked for, or the first that can run the model. Raises ModelError for a misfit."""
    able = engines_for(manifest)
    engine = config.engine or able[0]
    if engine not in able:
        raise ModelError(f"The {engine} engine cannot run {manifest.name} ({manifest.architecture}); {able[0]} can.")
    if engine is EngineKind.TRANSFORMERS:
        check_transformers(manifest.name, manifest.architecture)
    if manifest.format == "gguf":
        if config.quantize is not None:
            raise ModelError(f"{manifest.name} is a GGUF file and keeps its own quantization: leave --quantize out.")
        return engine, Quantize.NONE
    quantize = config.quantize or _QUANTIZE[engine][0]
    if quantize not in _QUANTIZE[engine]:
        raise ModelError(f"The {engine} engine quantizes to {', '.join(_QUANTIZE[engine])}, not {quantize}.")
    return engine, quantize


def footprint(
    manifest: Manifest, engine: EngineKind, quantize: Quantize, context: int, rows: RowFormat = RowFormat.F32
) -> Footprint:
    """What the model's parts weigh on a node, with a cache for one session of full length, and on its link."""
    sizes = part_sizes(manifest, engine, quantize)
    cache = int(context * manifest.kv_width * CACHE_BYTES[engine])
    row = payload_size(1, manifest.hidden_size, rows)
    return Footprint(sizes.layers, sizes.entry, sizes.head, cache, row=2 * row)


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


class _Server(uvicorn.Server):
    """Ctrl-C and SIGTERM end it cleanly: answers first, then sockets, and no signal is raised again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM) if sys.platform != "win32" else ()
        for sign in signals:
            loop.add_signal_handler(sign, self.handle_exit, sign, None)
        try:
            yield
        finally:
            for sign in signals:
                loop.remove_signal_handler(sign)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.gateway.stop()  # type: ignore[union-attr]
        self.config.app.state.live.stop()  # type: ignore[union-attr]
        await super().shutdown(sockets)


@dataclass(frozen=True)
class Tls:
    """PEM files: the certificate with all that lead to its authority, and its private key."""

    certificate: Path
    key: Path


def make_server(app: Starlette, tls: Tls | None = None) -> uvicorn.Server:
    """Nodes are pinged, so that one whose laptop closed is missed within half a minute.

    Raises PotluckError when the files for TLS are unusable.
    """
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_max_size=MAX_FRAME,
        ws_per_message_deflate=False,
        ws_ping_interval=10.0,
        ws_ping_timeout=20.0,
        timeout_graceful_shutdown=2,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        lifespan="on",
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    try:
        config.load()
    except OSError as error:  # OpenSSL's errors are OSErrors
        raise PotluckError(f"TLS cannot be spoken with these files: {error.strerror or error}.") from error
    return _Server(config)
