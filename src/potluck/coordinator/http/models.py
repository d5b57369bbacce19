"""The models that are served, and the one that a request means."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from starlette.requests import Request

from potluck.coordinator.fleet.places import Places
from potluck.coordinator.fleet.records import ModelRecord
from potluck.coordinator.http.elsewhere import Elsewhere, answered_here, stays_here
from potluck.coordinator.http.errors import unknown_model, unnamed_model
from potluck.coordinator.http.pool import Pool
from potluck.coordinator.http.service import Service
from potluck.coordinator.sessions.demand import ModelState
from potluck.errors import RequestError, Unavailable


class Served(Protocol):
    """A model that may be asked. names: all of them. context: the most positions of a session. created: Unix time."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def context(self) -> int: ...

    @property
    def created(self) -> int: ...

    @property
    def state(self) -> Callable[[], ModelState]: ...

    async def ready(self) -> Service:
        """What answers. Raises Unavailable when it cannot be made."""


class Models:
    """The models in the order in which they are served. All of them read in the same pool.

    places: says where in the fleet requests are served, if there is one.
    """

    def __init__(self, *services: Served, pool: Pool | None = None, places: Places | None = None) -> None:
        self._services = services
        self.pool = pool or Pool()
        self._places = places

    @property
    def context(self) -> int:
        """The longest context of any of them."""
        return max(service.context for service in self._services)

    def open_to(self, request: Request) -> list[Served]:
        """The models that the caller may ask. A key may be limited to some."""
        allowed = _allowed(request)
        return [each for each in self._services if not allowed or _is_in(allowed, each.names)]

    def elsewhere(self, request: Request) -> list[tuple[ModelRecord, float]]:
        """The models that the caller may ask and only others of the fleet serve, with the Unix time since when."""
        if self._places is None:
            return []
        allowed = _allowed(request)
        return [
            (model, since) for model, since in self._places.elsewhere() if not allowed or _is_in(allowed, model.names)
        ]

    def state_of(self, model: Served) -> ModelState:
        """The state of a model that is served here. What another coordinator covers can be asked here as well."""
        covered = self._places is not None and self._places.covers(model.names)
        return ModelState.READY if covered else model.state()

    def seek(self, request: Request) -> None:
        """Look for something at the other coordinators that is not kept here. Raises Elsewhere if there are any."""
        if self._places is not None and not stays_here(request) and (others := self._places.fleet.others):
            raise Elsewhere(others, seeks=True)

    async def of(self, request: Request, name: str) -> Service:
        """What answers for the model with this name. Raises what `find` raises, and Unavailable."""
        return await self.find(request, name).ready()

    def find(self, request: Request, name: str) -> Served:
        """The model with this name.

        Raises RequestError when there is none that the caller may ask, or when no name is given and there are several.
        Raises Elsewhere when other coordinators should rather answer.
        """
        services = self.open_to(request)
        names = [own for service in services for own in service.names]
        others = self.elsewhere(request)
        names += [own for model, _ in others for own in model.names]
        if not names:
            raise RequestError("This API key is for models that are not served here.", status=403, code="forbidden")
        if not name and len(services) == 1:
            name = services[0].names[0]
        if not name:
            raise unnamed_model(names)
        if name not in names:
            raise unknown_model(name, names, len(services) + len(others))
        found = next((service for service in services if name in service.names), None)
        if self._places is not None and not stays_here(request) and (better := self._places.better(name)):
            raise Elsewhere(better, name, here=found is not None)
        if found is None:
            raise Unavailable(f"The coordinators that serve {name!r} do not answer now.")
        if self._places is not None:
            answered_here(request, found.names[0], self._places.under_way)
        return found


def _allowed(request: Request) -> tuple[str, ...]:
    """The names of the models that the caller may ask; empty means all."""
    caller = getattr(request.state, "caller", None)
    return caller.models if caller is not None else ()


def _is_in(allowed: Collection[str], names: Collection[str]) -> bool:
    return not set(allowed).isdisjoint(names)
