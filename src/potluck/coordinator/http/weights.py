"""The model's bytes as nodes download them: the manifest, and the files that it names."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response

from potluck.errors import RequestError
from potluck.models.manifest import Manifest
from potluck.models.sources import Found, local_source


class Weights:
    """Serves the model's bytes. Files on the Hugging Face hub are fetched there; others are read from this machine's
    disk.
    """

    def __init__(self, manifest: Manifest, model: Found) -> None:
        self._files = frozenset(manifest.files)
        self._encoded = manifest.encode()
        self._hub = model.hub
        self._folder: Path = local_source(model.path).folder

    async def manifest(self, _: Request) -> Response:
        """GET /manifest"""
        return Response(self._encoded, media_type="application/json")

    async def file(self, request: Request) -> Response:
        """GET /files/{name}"""
        name = request.path_params["name"]
        if name not in self._files:
            raise RequestError(f"The model has no file {name!r}.", status=404)
        if self._hub is not None:
            return RedirectResponse(self._hub.url(name))
        return FileResponse(self._folder / name, media_type="application/octet-stream")
