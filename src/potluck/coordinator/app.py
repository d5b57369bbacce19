"""The coordinator as a web application, composed of everything that answers people, programs and nodes."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from potluck.coordinator.compose import ModelService, compose_model
from potluck.coordinator.gateway.gateway import Gateway
from potluck.coordinator.gateway.lobby import Lobby, new_lobby
from potluck.coordinator.gateway.moderation import Moderation
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
from potluck.coordinator.http.models import Models
from potluck.coordinator.http.monitoring import Monitoring
from potluck.coordinator.http.office import Office
from potluck.coordinator.http.openai import OpenAI
from potluck.coordinator.http.openapi import Document
from potluck.coordinator.http.pages import Pages
from potluck.coordinator.http.pool import WORKERS, Pool, asker_of
from potluck.coordinator.http.research import Research
from potluck.coordinator.http.routes import ENDPOINTS, NODE_SOCKET, access_of, routes_of
from potluck.coordinator.http.service import Service
from potluck.coordinator.http.weights import Weights
from potluck.coordinator.model_choice import choose_context, choose_engine
from potluck.coordinator.text.children import ChildEncoder
from potluck.coordinator.text.encoder import Encoder
from potluck.coordinator.watching.history import History
from potluck.coordinator.watching.live import Live
from potluck.coordinator.watching.metrics import Metrics, RequestCount
from potluck.coordinator.watching.watched import Watched
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
class ModelConfig:
    """The choices about one model. engine, quantize, attention, rows: how nodes run it; None leaves it to what the
    model needs.

    context: the positions of a session; None means the model's, up to DEFAULT_CONTEXT.
    audit: the share of all stage-steps that other nodes compute again.
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
    tries: bool = False
    aliases: tuple[str, ...] = ()
    guesser: Found | None = None


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """The choices of a coordinator's owner. models: what it serves.

    proxies: addresses and networks whose word about a caller's address is taken.
    origins: those of the web pages that may read answers; `*` stands for all.
    """

    models: tuple[ModelConfig, ...]
    proxies: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


def make_app(config: ServeConfig, manifests: Sequence[Manifest], office: Office) -> Starlette:
    """The application for these models, for those whom the office lets in. manifests: of the config's models.

    Raises ModelError when the engine cannot run one, when its tokenizer or template cannot be read, or when the small
    model cannot guess for it.
    """
    lobby = new_lobby(office.reception)
    lobby.caught.listen(lambda caught: office.books.shut_out(*caught))
    models = [
        _compose(choices, manifest, lobby, office) for choices, manifest in zip(config.models, manifests, strict=True)
    ]
    gates = [model.running.gate for model in models]
    accounts, pool = Accounts(office.books.ledger, office.members, office.desks.accounts), Pool()
    served = Models(*(_service(*each, accounts, pool) for each in zip(config.models, models, strict=True)))
    hidden = {model.manifest.name: model.hidden_states for model in models}
    watched, requests = [_watched(model) for model in models], Counter[int]()
    history = History([model.figures for model in models])
    live = Live([model.status for model in models], history.beside, asker_of)
    routes = routes_of(
        Pages(),
        Document(ENDPOINTS),
        Monitoring(watched, Metrics(watched, requests), pool),
        live,
        Weights([(model.manifest, model.found, model.files) for model in models], lobby.tickets),
        OpenAI(served),
        Embeddings(served, hidden),
        Doors(served),
        Research(served, hidden),
        accounts,
        Admin(office, Moderation(gates, lobby)),
    )
    gateway = Gateway(gates, lobby)
    handlers = {PotluckError: error_response, HTTPException: http_error, Exception: fault}
    processes = [model.process.kept for model in models if model.process is not None]
    app = Starlette(
        routes=[*routes, WebSocketRoute(NODE_SOCKET, gateway)],
        middleware=_middleware(config, office, lobby, requests),
        exception_handlers=handlers,  # type: ignore[arg-type]
        lifespan=partial(_lifespan, [office.books.kept, history.kept, *processes], [model.encoder for model in models]),
    )
    app.router.default = Nowhere(ENDPOINTS)
    app.router.redirect_slashes = False  # they are no part of a path here
    app.state.stops = (*(model.running.stop for model in models), gateway.stop, live.stop)
    return app


def _compose(choices: ModelConfig, manifest: Manifest, lobby: Lobby, office: Office) -> ModelService:
    """Everything about one model."""
    engine, quantize = choose_engine(manifest, choices.engine, choices.quantize, tries=choices.tries)
    context = choose_context(manifest, choices.context)
    terms = Terms(manifest.digest, engine, quantize, choices.attention, choices.rows, context)
    # Hostile files end these children, before this process reads them as well.
    encoder = ChildEncoder(choices.model.path, WORKERS, most_bytes(context))
    names = (manifest.name, *choices.aliases)
    return compose_model(
        manifest, choices.model, terms, encoder, choices.audit, lobby, office.books, names, choices.guesser
    )


def _service(choices: ModelConfig, model: ModelService, accounts: Accounts, pool: Pool) -> Service:
    """What answers requests for one model."""
    return Service(
        model.generation.answer,
        model.tokenizer,
        model.encoder,
        model.manifest.name,
        model.running.terms.context,
        int(time.time()),
        accounts.claim,
        pool,
        model.manifest.vocabulary,
        model.sampling,
        aliases=choices.aliases,
    )


def _watched(model: ModelService) -> Watched:
    running = model.running
    return Watched(
        names=running.gate.names,
        digest=model.manifest.digest,
        status=model.status,
        swarm=running.swarm,
        audits=running.audits,
        waiting=running.queue.waiting,
        hops=running.relay.trace,
    )


def _middleware(config: ServeConfig, office: Office, lobby: Lobby, requests: Counter[int]) -> list[Middleware]:
    """What every request passes, the first first. requests: where they are counted."""
    return [
        Middleware(ProxyHeadersMiddleware, trusted_hosts=[*config.proxies]),
        Middleware(Addresses),
        Middleware(RequestCount, requests=requests),
        Middleware(Cors, origins=config.origins),
        Middleware(Auth, policy=office.policy, tickets=lobby.tickets, access_of=access_of),
        Middleware(Crowd),
    ]


@asynccontextmanager
async def _lifespan(
    kept: Sequence[Callable[[], AbstractAsyncContextManager[None]]], encoders: Sequence[Encoder], _: Starlette
) -> AsyncIterator[None]:
    """Keep what is to be kept while the application serves, and the encoders until then."""
    gc.freeze()  # what was made so far stays, so that the garbage collector need not look at it again and again
    gc.set_threshold(_YOUNG, 5, 2)
    async with AsyncExitStack() as stack:
        for each in kept:
            await stack.enter_async_context(each())
        for encoder in encoders:
            stack.enter_context(closing(encoder))
        yield
