"""The model's bytes as nodes download them: the manifest, and the files that it names."""

from __future__ import annotations

import asyncio
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from potluck.coordinator.watching.modelfiles import ModelFiles
from potluck.errors import RequestError, Unavailable
from potluck.models.manifest import Manifest
from potluck.models.sources import Found, local_source


class Weights:
    """Serves the model's bytes. Files on the Hugging Face hub are fetched there; others are read from this machine's
    disk, as long as they are what they were.
    """

    def __init__(self, manifest: Manifest, model: Found, files: ModelFiles | None) -> None:
        self._names = frozenset(manifest.files)
        self._encoded = manifest.encode()
        self._hub = model.hub
        self._folder: Path = local_source(model.path).folder
        self._files = files

    async def manifest(self, _: Request) -> Response:
        """GET /manifest"""
        return Response(self._encoded, media_type="application/json")

    async def file(self, request: Request) -> Response:
        """GET /files/{name}"""
        name = request.path_params["name"]
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
