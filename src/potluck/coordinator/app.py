"""The coordinator as a web application, composed of everything that answers people, programs and nodes."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from msgspec import structs
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from potluck.coordinator.compose import ModelService, compose_model, compose_running
from potluck.coordinator.fleet.fleet import Fleet
from potluck.coordinator.gateway.gateway import Gateway
from potluck.coordinator.gateway.lobby import Lobby, new_lobby
from potluck.coordinator.gateway.moderation import Moderation
from potluck.coordinator.gateway.terms import Terms
from potluck.coordinator.gateway.welcomes import alone
from potluck.coordinator.giving import neighbours
from potluck.coordinator.http.account import Accounts
from potluck.coordinator.http.addresses import Addresses, Nowhere
from potluck.coordinator.http.admin import Admin
from potluck.coordinator.http.auth import Auth
from potluck.coordinator.http.cors import Cors
from potluck.coordinator.http.crowd import Crowd
from potluck.coordinator.http.doors.doors import Doors
from potluck.coordinator.http.elsewhere import Staying
from potluck.coordinator.http.embeddings import Embeddings
from potluck.coordinator.http.errors import error_response, fault, http_error
from potluck.coordinator.http.inbound import most_bytes
from potluck.coordinator.http.keeping import Resuming
from potluck.coordinator.http.models import Models
from potluck.coordinator.http.monitoring import Monitoring
from potluck.coordinator.http.office import Office
from potluck.coordinator.http.on_demand import OnDemandService
from potluck.coordinator.http.openai import OpenAI
from potluck.coordinator.http.openapi import Document
from potluck.coordinator.http.pages import Pages
from potluck.coordinator.http.pool import WORKERS, Pool, asker_of
from potluck.coordinator.http.research import Research
from potluck.coordinator.http.routes import ENDPOINTS, NODE_SOCKET, access_of, routes_of
from potluck.coordinator.http.service import Service
from potluck.coordinator.http.weights import Weights
from potluck.coordinator.membership import Membership
from potluck.coordinator.model_choice import choose_context, choose_engine
from potluck.coordinator.offered import OfferedModel, Run
from potluck.coordinator.sessions.demand import Demand
from potluck.coordinator.text.children import ChildEncoder
from potluck.coordinator.text.encoder import Encoder
from potluck.coordinator.watching.history import History
from potluck.coordinator.watching.live import Live
from potluck.coordinator.watching.metrics import Metrics, RequestCount
from potluck.coordinator.watching.status import idle_status
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
    """The choices of a coordinator's owner. models: what it serves. offered: what it loads when somebody asks for it.

    proxies: addresses and networks whose word about a caller's address is taken.
    origins: those of the web pages that may read answers; `*` stands for all.
    """

    models: tuple[ModelConfig, ...]
    offered: tuple[ModelConfig, ...] = ()
    proxies: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


_HANDLERS: dict[Any, Any] = {PotluckError: error_response, HTTPException: http_error, Exception: fault}


def make_app(
    config: ServeConfig,
    manifests: Sequence[Manifest],
    office: Office,
    outlines: Sequence[Manifest] = (),
    fleet: Fleet | None = None,
) -> Starlette:
    """The application for these models, for those whom the office lets in. manifests: of the config's models.

    outlines: of those that are only offered.
    fleet: the one of which this coordinator is a member, as long as `state.member()` lasts.

    Raises ModelError when the engine cannot run one, when its tokenizer or template cannot be read, or when the small
    model cannot guess for it.
    """
    lobby = new_lobby(office.reception, partial(neighbours, fleet) if fleet is not None else alone)
    lobby.caught.listen(lambda caught: office.books.shut_out(*caught))
    models = [_compose(*each, lobby, office) for each in zip(config.models, manifests, strict=True)]
    offered = [_offer(*each, lobby, office) for each in zip(config.offered, outlines, strict=True)]
    every: list[ModelService | OfferedModel] = [*models, *offered]
    runs, gates = [model.running for model in every], [model.running.gate for model in every]
    accounts, pool = Accounts(office.books.ledger, office.members, office.desks.accounts), Pool()
    moderation, gateway = Moderation(gates, lobby), Gateway(gates, lobby)
    member = Membership(fleet, runs, office, moderation, lobby, gateway) if fleet is not None else None
    make = partial(_service, accounts=accounts, pool=pool)
    weights = Weights([(model.manifest, model.found, model.files) for model in models], lobby.tickets)
    services = [make(*each) for each in zip(config.models, models, strict=True)]
    asleep = [_on_demand(*each, make, weights) for each in zip(config.offered, offered, strict=True)]
    served = Models(*services, *asleep, pool=pool, places=member.places if member is not None else None)
    hidden = {running.gate.name: running.hidden_states() for running in runs}
    watched, requests = [_watched(model) for model in every], Counter[int]()
    history = History([running.figures for running in runs])
    idle = partial(_idle, lobby) if offered else None
    live = Live([model.status for model in every], history.beside, asker_of, idle)
    routes = routes_of(
        Pages(),
        Document(ENDPOINTS),
        Monitoring(watched, Metrics(watched, requests), pool, idle, fleet),
        live,
        weights,
        OpenAI(served),
        Embeddings(served, hidden),
        Doors(served),
        Research(served, hidden),
        accounts,
        Admin(office, moderation, member.tell) if member is not None else Admin(office, moderation),
        forwarding=member.forwarding if member is not None else None,
    )
    encoders: list[Encoder | OfferedModel] = [*(model.encoder for model in models), *offered]
    processes = [model.process.kept for model in models if model.process is not None]
    app = Starlette(
        routes=[*routes, WebSocketRoute(NODE_SOCKET, gateway)],
        middleware=_middleware(config, office, lobby, requests, member),
        exception_handlers=_HANDLERS,
        lifespan=partial(_lifespan, [office.books.kept, history.kept, *processes], encoders),
    )
    app.router.default, app.router.redirect_slashes = Nowhere(ENDPOINTS), False  # they are no part of a path here
    app.state.member = member.kept if member is not None else nullcontext
    app.state.stops = (*(running.stop for running in runs), gateway.stop, live.stop)
    return app


def _compose(choices: ModelConfig, manifest: Manifest, lobby: Lobby, office: Office) -> ModelService:
    """Everything about one model."""
    terms, names = _terms(choices, manifest, manifest.digest), (manifest.name, *choices.aliases)
    encoder = _encoder(choices, terms)
    run = partial(compose_running, manifest, terms, choices.audit, lobby, office.books, names)
    return compose_model(manifest, choices.model, terms, encoder, run, choices.guesser)


def _offer(choices: ModelConfig, outline: Manifest, lobby: Lobby, office: Office) -> OfferedModel:
    """A model of which only its swarm is made, until somebody asks for it."""
    terms, names = _terms(choices, outline, ""), (outline.name, *choices.aliases)
    demand = Demand(always=False)
    running = compose_running(outline, terms, choices.audit, lobby, office.books, names, demand=demand)

    def compose(manifest: Manifest, encoder: Encoder, run: Run) -> ModelService:
        return compose_model(manifest, choices.model, terms, encoder, run)

    def read() -> Manifest:
        return structs.replace(choices.model.manifest(), name=outline.name)

    return OfferedModel(outline, running, read, partial(_encoder, choices, terms), compose)


def _terms(choices: ModelConfig, manifest: Manifest, digest: str) -> Terms:
    engine, quantize = choose_engine(manifest, choices.engine, choices.quantize, tries=choices.tries)
    return Terms(digest, engine, quantize, choices.attention, choices.rows, choose_context(manifest, choices.context))


def _encoder(choices: ModelConfig, terms: Terms) -> ChildEncoder:
    # Hostile files end these children, before this process reads them as well.
    return ChildEncoder(choices.model.path, WORKERS, most_bytes(terms.context))


def _idle(lobby: Lobby) -> bytes:
    return msgspec.json.encode(idle_status(lobby.idle.values()))


def _on_demand(
    choices: ModelConfig, offered: OfferedModel, make: Callable[..., Service], weights: Weights
) -> OnDemandService:
    """What answers requests for an offered model, once the first one has come."""
    running = offered.running

    async def made() -> Service:
        model = await asyncio.to_thread(offered.make)
        service: Service = await asyncio.to_thread(make, choices, model)  # it reads the whole vocabulary
        weights.add(model.manifest, model.found, model.files)
        offered.identify(model)
        return service

    return OnDemandService(
        running.gate.names, running.terms.context, int(time.time()), lambda: running.gate.state, made
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
        digest=model.manifest.digest,
        state=lambda: model.running.gate.state,
    )


def _watched(model: ModelService | OfferedModel) -> Watched:
    running = model.running
    return Watched(
        names=running.gate.names,
        status=model.status,
        swarm=running.swarm,
        audits=running.audits,
        waiting=running.queue.waiting,
        hops=running.relay.trace,
        asked=lambda: running.gate.demand.asked,
    )


def _middleware(
    config: ServeConfig, office: Office, lobby: Lobby, requests: Counter[int], member: Membership | None
) -> list[Middleware]:
    """What every request passes, the first first. requests: where they are counted. member: of a fleet."""
    passes = member.passes if member is not None else None
    return [
        Middleware(ProxyHeadersMiddleware, trusted_hosts=[*config.proxies]),
        Middleware(Addresses),
        Middleware(RequestCount, requests=requests),
        Middleware(Cors, origins=config.origins),
        Middleware(Auth, policy=office.policy, tickets=lobby.tickets, access_of=access_of, passes=passes),
        *(_of_member(member) if member is not None else []),
        Middleware(Crowd),
    ]


def _of_member(member: Membership) -> list[Middleware]:
    """What requests to a member of a fleet pass besides."""
    return [
        Middleware(Staying, under_way=member.places.under_way),
        Middleware(Resuming, shelf=member.shelf, fleet=member.urls),
    ]


@asynccontextmanager
async def _lifespan(
    kept: Sequence[Callable[[], AbstractAsyncContextManager[None]]],
    encoders: Sequence[Encoder | OfferedModel],
    _: Starlette,
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
