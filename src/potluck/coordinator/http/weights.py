"""The bytes of models as nodes download them: the manifest, and the files that it names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from potluck.coordinator.gateway.tickets import Tickets
from potluck.coordinator.http.auth import bearer, caller_of
from potluck.coordinator.watching.modelfiles import ModelFiles
from potluck.errors import RequestError, Unavailable
from potluck.models.manifest import Manifest
from potluck.models.sources import Found, local_source


class Weights:
    """Serves the models' bytes. Files on the Hugging Face hub are fetched there; others are read from this machine's
    disk, as long as they are what they were.

    models: the manifest of each model, where it was found, and its files on this disk. tickets: those of nodes; the one
    that asks gets its own model.
    """

    def __init__(self, models: Sequence[tuple[Manifest, Found, ModelFiles | None]], tickets: Tickets) -> None:
        self._models: dict[str, _Weights] = {}
        self._tickets = tickets
        for each in models:
            self.add(*each)

    def add(self, manifest: Manifest, found: Found, files: ModelFiles | None) -> None:
        """Serve another model's bytes, too."""
        self._models[manifest.digest] = _Weights(manifest, found, files)

    async def manifest(self, request: Request) -> Response:
        """GET /manifest"""
        return Response(self._of(request).encoded, media_type="application/json")

    async def file(self, request: Request) -> Response:
        """GET /files/{name}"""
        return await self._of(request).file(request.path_params["name"])

    def _of(self, request: Request) -> _Weights:
        """The weights that this request may have: those of a node's ticket, or those that a key asks for.

        Raises RequestError when there are none.
        """
        digest = self._tickets.model_of(bearer(request))
        if digest is not None:
            return self._models[digest]
        caller, name = caller_of(request), request.query_params.get("model", "")
        allowed = [each for each in self._models.values() if not caller.models or each.name in caller.models]
        found = next((each for each in allowed if name in ("", each.name)), None)
        if found is None:
            raise RequestError("This key may have no such model.", status=404, param="model", code="model_not_found")
        return found


class _Weights:
    """The bytes of one model."""

    def __init__(self, manifest: Manifest, model: Found, files: ModelFiles | None) -> None:
        self.name = manifest.name
        self.encoded = manifest.encode()
        self._names = frozenset(manifest.files)
        self._hub = model.hub
        self._folder: Path = local_source(model.path).folder
        self._files = files

    async def file(self, name: str) -> Response:
        if name not in self._names:
            raise RequestError(f"The model has no file {name!r}.", status=404)
        if self._hub is not None:
            return RedirectResponse(self._hub.url(name))
        assert self._files is not None
        if fault := await asyncio.to_thread(self._files.check, name):  # a disk may be slow
            raise Unavailable(fault)
        return _Original(self._folder / name, self._files)


class _Original(FileResponse):
    """One of these files. Where it is lost or cut while it is sent, so is the connection, and the log tells why."""

    def __init__(self, path: Path, files: ModelFiles) -> None:
        super().__init__(path, media_type="application/octet-stream")
        self._name = path.name
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except Exception:
            if not await asyncio.to_thread(self._files.check, self._name):
                raise
