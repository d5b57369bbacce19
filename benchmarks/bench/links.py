"""Proxies between nodes and their coordinator, such as slow links."""

from __future__ import annotations

import queue
import random
import socket
import threading
import time
from abc import ABC, abstractmethod

import httpx


class Proxy(ABC):
    """Stands between nodes and the coordinator. It calls `start` for both directions of each connection, in threads."""

    def __init__(self, url: str) -> None:
        self._target = (httpx.URL(url).host, httpx.URL(url).port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            node, _ = self._listener.accept()
            try:
                coordinator = socket.create_connection(self._target)
            except OSError:  # it has ended; so will the node
                node.close()
                continue
            for source, sink in ((node, coordinator), (coordinator, node)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.start(source, sink)

    @abstractmethod
    def start(self, source: socket.socket, sink: socket.socket) -> None:
        """Carry bytes from source to sink from now on, without waiting for it."""


class SlowLink(Proxy):
    """A proxy whose connections have a delay, a jitter and a bandwidth, each way.

    late: the share of the pieces that come `late_s` later than the others, with all that follows them. Bytes keep their
    order. The delay does not limit how many bytes are on their way. All of it may be changed at any time. The links run
    in threads, because event loops sleep in whole milliseconds.
    """

    def __init__(self, url: str, delay_s: float = 0.0, jitter_s: float = 0.0, bits_per_s: float = float("inf")) -> None:
        self.delay_s = delay_s
        self.jitter_s = jitter_s
        self.bits_per_s = bits_per_s
        self.late = self.late_s = 0.0
        self._random = random.Random(0)
        super().__init__(url)

    def start(self, source: socket.socket, sink: socket.socket) -> None:
        line: queue.Queue[tuple[float, bytes]] = queue.Queue(256)  # bounded, as a line's buffers are
        threading.Thread(target=self._read, args=(source, line), daemon=True).start()
        threading.Thread(target=self._write, args=(line, sink), daemon=True).start()

    def _read(self, source: socket.socket, line: queue.Queue[tuple[float, bytes]]) -> None:
        """Put every piece into the line with the moment of its arrival. An empty one means that the source hung up."""
        free = due = 0.0
        data = b"begin"
        while data:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            free = max(free, time.perf_counter()) + 8 * len(data) / self.bits_per_s
            jitter = self._random.uniform(-self.jitter_s, self.jitter_s)
            late_s = self.late_s if self._random.random() < self.late else 0.0
            due = max(due, free + max(0.0, self.delay_s + jitter) + late_s)
            line.put((due, data))

    def _write(self, line: queue.Queue[tuple[float, bytes]], sink: socket.socket) -> None:
        data = b"begin"
        while data:
            due, data = line.get()
            if (wait := due - time.perf_counter()) > 0:
                time.sleep(wait)
            try:
                if data:
                    sink.sendall(data)
                else:
                    sink.shutdown(socket.SHUT_WR)
            except OSError:  # the sink is gone: what still comes is thrown away
                continue
