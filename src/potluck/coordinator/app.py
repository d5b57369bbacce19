"""The coordinator as a web application, composed of everything that answers people, programs and nodes."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from potluck.coordinator.compose import SwarmService, compose_model
from potluck.coordinator.gateway.terms import Terms
from potluck.coordinator.http.account import Accounts
from potluck.coordinator.http.addresses import Addresses, Nowhere
from potluck.coordinator.http.admin import Admin
from potluck.coordinator.http.auth import Auth
from potluck.coordinator.http.cors import Cors
from potluck.coordinator.http.crowd import Crowd
from potluck.coordinator.http.doors.doors import Doors
from potluck.coordinator.http.embeddings import Embeddings
from potluck.coordinator.http.errors import error_response, fault, http_error
from potluck.coordinator.http.inbound import most_bytes
from potluck.coordinator.http.monitoring import Monitoring
from potluck.coordinator.http.office import Office
from potluck.coordinator.http.openai import Service
from potluck.coordinator.http.openapi import Document
from potluck.coordinator.http.pages import Pages
from potluck.coordinator.http.pool import WORKERS, Pool, asker_of
from potluck.coordinator.http.research import Research
from potluck.coordinator.http.routes import ENDPOINTS, NODE_SOCKET, access_of, routes_of
from potluck.coordinator.http.weights import Weights
from potluck.coordinator.model_choice import choose_context, choose_engine
from potluck.coordinator.text.children import ChildEncoder
from potluck.coordinator.text.encoder import Encoder
from potluck.coordinator.watching.history import History
from potluck.coordinator.watching.live import Live
from potluck.coordinator.watching.metrics import Metrics, RequestCount
from potluck.errors import PotluckError
from potluck.models.manifest import Manifest
from potluck.models.sources import Found
from potluck.types import Attention, EngineKind, Quantize, RowFormat

DEFAULT_AUDIT = 0.02
_YOUNG = 10_000
"""The new objects after which the garbage collector looks at them: a bundle of frames makes a hundred. It looks at all
objects as often as it usually does, after a hundred thousand new ones.
"""


@dataclass(frozen=True)
class ServeConfig:
    """The owner's choices for `serve`. model: what `find_model` found. engine, quantize: None takes the first that can
    run it.

    context: the positions of a session; None means the model's, up to DEFAULT_CONTEXT.
    audit: the share of all stage-steps that other nodes compute again.
    proxies: addresses and networks whose word about a caller's address is taken.
    origins: those of the web pages that may read answers; `*` stands for all.
    aliases: further names by which requests may ask for the model.
    guesser: a small model that guesses how answers go on.
    tries: whether the model may be of an architecture of which nobody has proved that it can be cut.
    """

    model: Found
    engine: EngineKind | None = None
    quantize: Quantize | None = None
    attention: Attention = Attention.EXACT
    rows: RowFormat = RowFormat.F32
    context: int | None = None
    audit: float = DEFAULT_AUDIT
    proxies: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    tries: bool = False
    aliases: tuple[str, ...] = ()
    guesser: Found | None = None


def make_app(config: ServeConfig, manifest: Manifest, office: Office) -> Starlette:
    """The application for one model, for those whom the office lets in.

    Raises ModelError when the engine cannot run it, when its tokenizer or template cannot be read, or when the small
    model cannot guess for it.
    """
    engine, quantize = choose_engine(manifest, config.engine, config.quantize, tries=config.tries)
    context = choose_context(manifest, config.context)
    terms = Terms(manifest.digest, engine, quantize, config.attention, config.rows, context)
    # Hostile files end these children, before this process reads them as well.
    encoder = ChildEncoder(config.model.path, WORKERS, most_bytes(context))
    model = compose_model(manifest, config.model, terms, config.audit, office.reception, office.books, config.guesser)
    running, swarm = model.running, model.running.swarm
    accounts, pool = Accounts(running.ledger, office.members, office.desks.accounts), Pool()
    service = Service(
        model.generation.answer,
        model.tokenizer,
        encoder,
        manifest.name,
        context,
        int(time.time()),
        accounts.claim,
        pool,
        manifest.vocabulary,
        model.sampling,
        aliases=config.aliases,
    )
    metrics = Metrics(manifest.name, manifest.digest, swarm, running.audits, running.queue.waiting)
    history = History(model.figures)
    live = Live(model.status, history.beside, asker_of)
    kept = [office.books.kept, history.kept, *([model.process.kept] if model.process is not None else [])]
    routes = routes_of(
        Pages(),
        Document(ENDPOINTS),
        Monitoring(model.status, metrics, running.relay.trace, swarm, pool),
        live,
        Weights(model.manifest, model.found, model.files),
        service,
        Embeddings(service, model.hidden_states),
        Doors(service),
        Research(service, model.hidden_states),
        accounts,
        Admin(office, running.moderation),
    )
    handlers = {PotluckError: error_response, HTTPException: http_error, Exception: fault}
    app = Starlette(
        routes=[*routes, WebSocketRoute(NODE_SOCKET, running.gateway)],
        middleware=_middleware(config, office, running),
        exception_handlers=handlers,  # type: ignore[arg-type]
        lifespan=partial(_lifespan, kept, encoder),
    )
    app.router.default = Nowhere(ENDPOINTS)
    app.router.redirect_slashes = False  # they are no part of a path here
    app.state.stops = (running.stop, live.stop)
    return app


def _middleware(config: ServeConfig, office: Office, running: SwarmService) -> list[Middleware]:
    """What every request passes, the first first."""
    return [
        Middleware(ProxyHeadersMiddleware, trusted_hosts=[*config.proxies]),
        Middleware(Addresses),
        Middleware(RequestCount, tally=running.swarm.tally),
        Middleware(Cors, origins=config.origins),
        Middleware(Auth, policy=office.policy, tickets=running.tickets, access_of=access_of),
        Middleware(Crowd),
    ]


@asynccontextmanager
async def _lifespan(
    kept: Sequence[Callable[[], AbstractAsyncContextManager[None]]], encoder: Encoder, _: Starlette
) -> AsyncIterator[None]:
    """Keep what is to be kept while the application serves, and the encoder until then."""
    gc.freeze()  # what was made so far stays, so that the garbage collector need not look at it again and again
    gc.set_threshold(_YOUNG, 5, 2)
    async with AsyncExitStack() as stack:
        for each in kept:
            await stack.enter_async_context(each())
        stack.enter_context(closing(encoder))
        yield
