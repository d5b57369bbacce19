"""A proxy between nodes and a coordinator: it keeps what either sends, and may be slow."""

from __future__ import annotations

import queue
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

CRAWL = 1e3
"""Bytes a second of a line by which a node gets a few tokens a second: an answer takes minutes on any machine."""


class Proxy:
    """Stands between a node and the coordinator at `url`, and keeps what either sends.

    pace: bytes a second that it carries to the node on each connection, where it is slow; it may change at any time.
    delay_s: how much later everything arrives, either way. port: the coordinator's; it may change as well.
    """

    def __init__(self, url: str, pace: float | None = None, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.heard = bytearray()
        self.told = bytearray()
        self.pace = pace
        self.port = int(url.rpartition(":")[2])
        self._open: set[socket.socket] = set()
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True  # where a test fails, its nodes end after the proxy
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _handler(self) -> type[socketserver.BaseRequestHandler]:
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                try:
                    forth = socket.create_connection(("127.0.0.1", proxy.port))
                except ConnectionError:  # the coordinator is gone
                    return
                with forth:
                    proxy._open |= {forth, self.request}
                    carry = pump if not proxy.delay_s else partial(late_pump, delay_s=proxy.delay_s)
                    back = threading.Thread(target=carry, args=[forth, self.request, proxy.told, lambda: proxy.pace])
                    back.start()
                    carry(self.request, forth, proxy.heard)
                    back.join()
                    proxy._open -= {forth, self.request}

        return Handler

    @property
    def paths(self) -> list[str]:
        """What was asked for."""
        return [path.decode() for path in re.findall(rb"GET (\S+) HTTP/1.1\r\n", self.heard)]

    def cut(self) -> None:
        """End all connections, as if the line were cut."""
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def crawling(self) -> Iterator[None]:
        """No answer that passes here ends meanwhile."""
        self.pace = CRAWL
        yield
        self.pace = None

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def late_pump(
    one: socket.socket,
    other: socket.socket,
    heard: bytearray,
    pace: Callable[[], float | None] = lambda: None,
    *,
    delay_s: float,
) -> None:
    """Carry bytes as `pump` does, but let each arrive this much later."""
    line: queue.Queue[tuple[float, bytes]] = queue.Queue()
    near, far = socket.socketpair()

    def wait() -> None:
        while data := (item := line.get())[1]:
            time.sleep(max(0.0, item[0] - time.monotonic()))
            with suppress(OSError):
                far.sendall(data)
        far.close()

    def read() -> None:
        with suppress(ConnectionError):
            while data := one.recv(1 << 16):
                line.put((time.monotonic() + delay_s, data))
        line.put((0.0, b""))

    threads = [threading.Thread(target=target, daemon=True) for target in (wait, read)]
    for thread in threads:
        thread.start()
    pump(near, other, heard, pace)
    for thread in threads:
        thread.join()
    near.close()


def pump(
    one: socket.socket, other: socket.socket, heard: bytearray, pace: Callable[[], float | None] = lambda: None
) -> None:
    """Carry bytes from one socket to the other until either closes; pace: so many a second."""
    with suppress(ConnectionError):
        while data := one.recv(1 << 16):
            heard += data
            other.sendall(data)
            if rate := pace():
                time.sleep(len(data) / rate)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)
