"""What the end-to-end tests share: the command line, the unsplit model to compare with, a proxy that counts."""

from __future__ import annotations

import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import openai
from gguf import GGMLQuantizationType

from potluck.coordinator.model_choice import footprint
from potluck.coordinator.text.opening import open_tokenizer
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.local import HANG_S
from potluck.models.sources import open_model
from potluck.node.candidates import best_candidates
from potluck.types import Attention, Capacity, EngineKind, Quantize, Span

POTLUCK = [sys.executable, "-m", "potluck"]
LOCAL = ["--local"]
OPEN = ["--open", "--host", "127.0.0.1"]
ONE_THREAD = ["--threads", "1"]
CHUNK = 512

CRAWL = 1e3
"""Bytes a second of a line by which a node gets a few tokens a second: an answer takes minutes on any machine."""

EXACT = GGMLQuantizationType.Q8_0
"""Of float matrices llama.cpp computes one row in another order than many, so that batches change bits."""


def potluck(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [*POTLUCK, *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=HANG_S, check=False)


def complaint(*arguments: object) -> str:
    """The one sentence with which a command refuses."""
    done = potluck(*arguments)
    assert done.returncode not in (0, -9), done.stdout
    [line] = done.stderr.strip().splitlines()
    assert re.fullmatch(r"potluck: \S.*[.]", line), line
    return line.removeprefix("potluck: ")


def memory_for(path: Path, span: Span, context: int = 4096) -> int:
    """Bytes: just enough for these layers, and for one session of this length."""
    return footprint(open_model(path), EngineKind.LLAMACPP, Quantize.NONE, context).of(span)


class Unsplit:
    """The whole model in one engine of this process."""

    def __init__(self, model: Path, context: int = 4096) -> None:
        manifest = open_model(model)
        self.tokenizer = open_tokenizer(model)
        self._engine = LlamaCppEngine(
            model,
            span=Span(0, manifest.layers - 1),
            layers=manifest.layers,
            attention=Attention.EXACT,
            capacity=Capacity(1, context, CHUNK),
            threads=1,
        )

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, special=True, bos=True)

    def _feed(self, position: int, tokens: list[int], wanted: int = 1) -> np.ndarray:
        data = np.array(tokens, np.int32)
        return self._engine.forward([Segment(1, position, data, self._engine.span.last, wanted)])[0]

    def greedy(self, prompt: list[int], count: int, ignore_eos: bool = False) -> list[int]:
        """So many tokens, or up to the one that ends the answer, which is left out."""
        stops = frozenset() if ignore_eos else self.tokenizer.stop_ids
        self._engine.close(1)
        [logits] = self._feed(0, prompt)
        answer: list[int] = []
        while (token := int(logits.argmax())) not in stops and len(answer) < count:
            [logits] = self._feed(len(prompt) + len(answer), [token])
            answer.append(token)
        return answer

    def text(self, prompt: list[int], count: int) -> str:
        return b"".join(map(self.tokenizer.piece, self.greedy(prompt, count))).decode("utf-8", "replace")

    def score(self, tokens: list[int]) -> list[float]:
        """Log-probability of each token but the first, given those before it."""
        self._engine.close(1)
        parts = [(start, tokens[start : start + CHUNK]) for start in range(0, len(tokens), CHUNK)]
        rows = [row for start, part in parts for row in self._feed(start, part, len(part))]
        return [chosen_logprob(row, token) for row, token in zip(rows, tokens[1:], strict=False)]

    def close(self) -> None:
        self._engine.unload()


def chosen_logprob(logits: np.ndarray, token: int) -> float:
    ids, logprobs, _ = best_candidates(logits, 1, [token])
    return float(logprobs[ids.tolist().index(token)])


def check_greedy(client: openai.OpenAI, model: str, unsplit: Unsplit) -> None:
    """A greedy answer and its prompt have the log-probabilities that the unsplit model gives them, bit for bit."""
    prompt = unsplit.encode("the potluck")
    options = {"max_tokens": 40, "temperature": 0, "logprobs": 0, "echo": True, "extra_body": {"ignore_eos": True}}
    answer = client.completions.create(model=model, prompt=prompt, **options).choices[0]
    tokens = [*prompt, *unsplit.greedy(prompt, 40, ignore_eos=True)]
    assert answer.logprobs.token_logprobs == [None, *unsplit.score(tokens)]


class Proxy:
    """Stands between a node and the coordinator at `url`, and keeps what either sends.

    pace: bytes a second that it carries to the node on each connection, where it is slow; it may change at any time.
    """

    def __init__(self, url: str, pace: float | None = None) -> None:
        self.heard = bytearray()
        self.told = bytearray()
        self.pace = pace
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), self._handler(int(url.rpartition(":")[2])))
        self._server.daemon_threads = True  # where a test fails, its nodes end after the proxy
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _handler(self, port: int) -> type[socketserver.BaseRequestHandler]:
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(("127.0.0.1", port)) as forth:
                    back = threading.Thread(target=pump, args=[forth, self.request, proxy.told, lambda: proxy.pace])
                    back.start()
                    pump(self.request, forth, proxy.heard)
                    back.join()

        return Handler

    @property
    def paths(self) -> list[str]:
        """What was asked for."""
        return [path.decode() for path in re.findall(rb"GET (\S+) HTTP/1.1\r\n", self.heard)]

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
