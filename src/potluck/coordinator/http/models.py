"""The models that are served, and the one that a request means."""

from __future__ import annotations

from starlette.requests import Request

from potluck.coordinator.http.errors import unknown_model, unnamed_model
from potluck.coordinator.http.pool import Pool
from potluck.coordinator.http.service import Service
from potluck.errors import RequestError


class Models:
    """The models in the order in which they are served. All of them read in the same pool."""

    def __init__(self, *services: Service) -> None:
        self._services = services

    @property
    def context(self) -> int:
        """The longest context of any of them."""
        return max(service.context for service in self._services)

    @property
    def pool(self) -> Pool:
        return self._services[0].pool

    def open_to(self, request: Request) -> list[Service]:
        """The models that the caller may ask. A key may be limited to some."""
        caller = getattr(request.state, "caller", None)
        allowed = caller.models if caller is not None else ()
        return [each for each in self._services if not allowed or not set(allowed).isdisjoint(each.names)]

    def of(self, request: Request, name: str) -> Service:
        """The model with this name. Raises RequestError when there is none that the caller may ask, or when no name is
        given and there are several.
        """
        services = self.open_to(request)
        names = [own for service in services for own in service.names]
        if not names:
            raise RequestError("This API key is for models that are not served here.", status=403, code="forbidden")
        if not name and len(services) == 1:
            return services[0]
        if not name:
            raise unnamed_model(names)
        found = next((service for service in services if name in service.names), None)
        if found is None:
            raise unknown_model(name, names, len(services))
        return found
