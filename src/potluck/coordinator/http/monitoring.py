"""The endpoints that show what the swarms do, for their owner, for Prometheus and for trace viewers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from potluck.coordinator.fleet.fleet import Fleet
from potluck.coordinator.fleet.status import fleet_status
from potluck.coordinator.http.auth import caller_of
from potluck.coordinator.http.errors import unknown_model, unnamed_model
from potluck.coordinator.http.pool import Pool
from potluck.coordinator.relay.batches import batches, fullness, sentence
from potluck.coordinator.relay.foresight import foresight
from potluck.coordinator.relay.trace import Hop, chrome, summary
from potluck.coordinator.watching.metrics import Metrics
from potluck.coordinator.watching.watched import Watched, together
from potluck.errors import RequestError


@dataclass(frozen=True)
class Monitoring:
    """The endpoints for watching. models: all that are served, at least one. figures: theirs.

    idle: returns the nodes that wait, as JSON; None where no models are offered.
    fleet: the one to which the coordinator belongs, if there is one.
    """

    models: Sequence[Watched]
    figures: Metrics
    pool: Pool
    idle: Callable[[], bytes] | None = None
    fleet: Fleet | None = None

    async def health(self, _: Request) -> Response:
        """GET /health"""
        return JSONResponse({"status": "ok"})

    async def status(self, request: Request) -> Response:
        """GET /status: of the model that is named, or of all."""
        may_see = caller_of(request).may_see
        idle = self.idle() if self.idle is not None and not request.query_params.get("model") else None
        return readable(together([model.status(may_see) for model in self._asked(request)], idle))

    async def members(self, _: Request) -> Response:
        """GET /fleet: the coordinators that serve together."""
        return readable(msgspec.json.encode(fleet_status(self.fleet)))

    async def metrics(self, _: Request) -> Response:
        """GET /metrics"""
        return self.figures.response()

    async def trace(self, request: Request) -> Response:
        """GET /trace: session numbers, positions and times; no texts and no tokens."""
        model, *others = self._asked(request)
        if others:
            raise unnamed_model(self._names)
        session, after = _number(request, "session"), _number(request, "after") or 0
        hops = model.hops.hops(after=after)
        names = {number: node.name for number, node in model.swarm.nodes.items()}
        # On a thread: a long timeline takes a good part of a second, and frames do not wait for it.
        body = await self.pool.of(request, partial(_timeline, hops, session, names, model.hops.count))
        return Response(body, media_type="application/json")

    def _asked(self, request: Request) -> list[Watched]:
        """The model that the query names; all of them if it names none. Raises RequestError where it names another."""
        name = request.query_params.get("model", "")
        asked = [model for model in self.models if not name or name in model.names]
        if not asked:
            raise unknown_model(name, self._names, len(self.models))
        return asked

    @property
    def _names(self) -> list[str]:
        return [model.name for model in self.models]


def readable(body: bytes) -> Response:
    """JSON for people who use curl: indented, but with a list of numbers on one line."""
    indented = msgspec.json.format(body, indent=2) + b"\n"
    text = re.sub(rb"\[[\d,\s]+\]", lambda found: b" ".join(found[0].split()), indented)
    return Response(text, media_type="application/json")


def _number(request: Request, name: str) -> int | None:
    """A number among the parameters of the query."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,18}", text):
        raise RequestError(f"{name} must be a whole number, 0 or more.", param=name)
    return int(text)


def _timeline(hops: Sequence[Hop], session: int | None, names: dict[str, str], count: int) -> bytes:
    """The timeline of this session or of all for viewers, with a few sentences, and the number of all hops so far.

    hops: those of all sessions, because others take part in a session's batches.
    """
    asked = [hop for hop in hops if session in (None, hop.session)]
    shared = batches(hops) if asked else []
    full = fullness([batch for batch in shared if session is None or session in batch.sessions])
    guesses = foresight(asked)
    sentences = (summary(asked, names), guesses.sentence if guesses else "", sentence(full))
    told = " ".join(filter(None, sentences))
    about = {"summary": told, "batches": full, "guesses": guesses, "count": count}
    return msgspec.json.encode({**about, **chrome(asked, names)})
