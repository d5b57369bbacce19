"""A stand-in for the Hugging Face hub: it lists a repository, asks for tokens, and leads to a storage of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

from kit.fileserver import FileServer, reply

NAME = "someone/tiny"


class Hub(FileServer):
    """The hub with one repository, `someone/tiny`, at one commit. Files come from `storage`, to which it redirects.

    token: what opens the files of a gated model; empty for one that is not. hidden: the list of files needs it, too.
    branches: the names of the commit, besides itself.
    """

    def __init__(self, folder: Path, token: str = "", *, hidden: bool = False) -> None:
        super().__init__(folder)
        self.storage = Storage(folder)
        self.branches = ["main"]
        self._token = token
        self._hidden = hidden

    @contextmanager
    def running(self) -> Iterator[Hub]:
        with self.storage.running(), super().running():
            yield self

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        self.shown.append(request.headers["Authorization"] or "")
        if listed := re.fullmatch(rf"/api/models/{NAME}/revision/([^/]+)", path):
            if self._hidden and self._refuse(request):
                return None
            known = unquote(listed[1]) in (*self.branches, self.revision)
            return reply(request, 200, self.listing()) if known else reply(request, 404, b"")
        if not path.startswith(f"/{NAME}/resolve/{self.revision}/"):
            return reply(request, 404, b"")
        if self._refuse(request):
            return None
        return reply(request, 302, b"", Location=f"{self.storage.url}{path}?signature=1")

    def _refuse(self, request: BaseHTTPRequestHandler) -> bool:
        """Refuse whoever may not see the model, as the hub does: 401 without a token, 403 with another one."""
        if not self._token or self.shown[-1] == f"Bearer {self._token}":
            return False
        reply(request, 403 if self.shown[-1] else 401, b"")
        return True


class Storage(FileServer):
    """Where the hub's files are. Like the real one it refuses a token, which is not for it."""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if request.headers["Authorization"]:
            return reply(request, 400, b"")
        return super().answer(request)
