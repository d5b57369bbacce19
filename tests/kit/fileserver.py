"""A real HTTP server of byte ranges on this machine, that can count what it sends, break off, corrupt and delay it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

_TICK_S = 0.02


class FileServer:
    """Serves a folder as a coordinator does (`/files/NAME`, `/manifest`), as the hub does, and tensors as nodes do.

    tensors: what it gives as a node, by SHA-256; tokens: those that were shown with requests for them.
    pace: bytes a second, if it is slow. stalls: it sends half of a part, and then nothing as long as it runs.

    sent: bytes of file content sent so far. break_after: of these, so many more before every connection is cut (once).
    flips: how many replies from now on have one wrong byte. busy: how many replies from now on are a 503.
    ticket: what requests must show, else the reply is a 401. elsewhere: where files are really.
    shown: the Authorization of each request.
    """

    def __init__(self, folder: Path, manifest: bytes = b"", tensors: dict[str, bytes] | None = None) -> None:
        self.folder = folder
        self.tensors = tensors or {}
        self.tokens: set[str] = set()
        self.pace: float | None = None
        self.stalls = False
        self._ended = threading.Event()
        self.manifest = manifest
        self.sent = 0
        self.ranges: list[tuple[str, int, int]] = []
        self.break_after: int | None = None
        self.flips = 0
        self.busy = 0
        self.ticket = ""
        self.elsewhere = ""
        self.shown: list[str] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def revision(self) -> str:
        return hashlib.sha1(str(self.folder).encode()).hexdigest()

    @contextmanager
    def running(self) -> Iterator[FileServer]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                """Tests are quiet."""

        return Handler

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(request.path.partition("?")[0])
        self.shown.append(request.headers["Authorization"] or "")
        if self.ticket and self.shown[-1] != f"Bearer {self.ticket}":
            return reply(request, 401, b"")
        if self.elsewhere and path.startswith("/files/"):
            return reply(request, 307, b"", Location=f"{self.elsewhere}{path}")
        if path == "/manifest":
            return reply(request, 200, self.manifest)
        if path.startswith("/api/models/someone/tiny/revision/"):
            return reply(request, 200, self.listing())
        if path == "/tensors":
            return reply(request, 200, json.dumps(list(self.tensors)).encode())
        name = path.removeprefix("/tensors/")
        if name != path:
            self.tokens.add(request.headers["Authorization"])
            if name in self.tensors and not self.busy:
                return self._part(request, name, self.tensors[name])
        match = re.fullmatch(rf"/files/([^/]+)|/someone/tiny/resolve/{self.revision}/(.+)", path)
        if self.busy:
            self.busy -= 1
            return reply(request, 503, b"")
        name = "" if match is None else match[1] or match[2]
        if not (self.folder / name).is_file():
            return reply(request, 404, b"")
        return self._part(request, name, (self.folder / name).read_bytes())

    def listing(self) -> bytes:
        """The hub's list of the files in a repository."""
        files = [each for each in sorted(self.folder.rglob("*")) if each.is_file()]
        names = [each.relative_to(self.folder).as_posix() for each in files]
        siblings = [{"rfilename": name, "size": each.stat().st_size} for name, each in zip(names, files, strict=True)]
        return json.dumps({"sha": self.revision, "siblings": siblings}).encode()

    def _part(self, request: BaseHTTPRequestHandler, name: str, content: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"] or "")
        assert wanted is not None, "The whole of a file was asked for."
        begin, end = int(wanted[1]), int(wanted[2]) + 1
        data = bytearray(content[begin:end])
        with self.lock:
            self.ranges.append((name, begin, end))
            if self.flips and data:
                self.flips -= 1
                data[len(data) // 2] ^= 1
            cut = len(data) if self.break_after is None else min(len(data), self.break_after)
            if self.break_after is not None:
                self.break_after = None if cut < len(data) else self.break_after - cut
            self.sent += cut
        request.send_response(206)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        self._write(request, data[: cut // 2 if self.stalls else cut])
        if self.stalls:
            self._ended.wait()
        request.close_connection = cut < len(data) or self.stalls

    def _write(self, request: BaseHTTPRequestHandler, data: bytearray) -> None:
        step = len(data) if self.pace is None else max(1, int(self.pace * _TICK_S))
        with suppress(ConnectionError):  # who asked may go when it takes too long
            for begin in range(0, len(data), max(1, step)):
                request.wfile.write(data[begin : begin + step])
                self._ended.wait(0 if self.pace is None else _TICK_S)


def reply(request: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
