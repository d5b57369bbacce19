"""What the benchmarks share: a client that times tokens, the engine without a swarm, slow links, tables and JSON."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import queue
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import psutil

from potluck.local import LocalSwarm, Process
from potluck.models.sources import open_model
from potluck.models.spans import span_file_name
from potluck.node.hardware import usable_cores
from potluck.types import Span, even_spans

if TYPE_CHECKING:  # the engine is imported late: OpenMP reads its settings then
    from potluck.engine.base import Segment
    from potluck.engine.llamacpp import LlamaCppEngine

CHUNK = 512
"""Rows that the engine without a swarm takes at once."""

Prompt = list[int]


# Tables, figures, and where they were taken


def hardware() -> dict[str, object]:
    """The machine: CPU, cores, memory in GiB, the instructions that matter, and how busy it was."""
    flags = set(_cpuinfo("flags").split())
    known = {"avx2": "avx2", "avx512f": "avx512", "avx512_vnni": "avx512_vnni", "amx_tile": "amx"}
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": len(usable_cores()),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "flags": [name for flag, name in known.items() if flag in flags],
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpuinfo(key: str) -> str:
    """Of the first core; empty where the system does not tell."""
    file = Path("/proc/cpuinfo")
    for line in file.read_text().splitlines() if file.exists() else []:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def begin() -> None:
    """Say where this runs; and let SIGTERM end it as Ctrl-C does, with all that it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
    machine = hardware()
    print(
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])}), "  # type: ignore[arg-type]
        f"{machine['memory_gib']} GiB, {machine['system']}, load {machine['load']}",
        flush=True,
    )


def print_json(benchmark: str, **figures: object) -> None:
    """The last line of a benchmark: every figure, and the machine."""
    print(json.dumps({"benchmark": benchmark, **_rounded(figures), "hardware": hardware()}), flush=True)


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.5g}")
        case dict():
            return {name: _rounded(item) for name, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
    return value


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they need be, the first one to the left."""
    lines = [[str(cell) for cell in line] for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *rest in lines:
        print(first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)))
    sys.stdout.flush()


def print_aim(name: str, value: float, *, at_least: float | None = None, below: float | None = None) -> dict[str, Any]:
    """One line that says whether the figure is what was aimed at; and the same for the JSON."""
    bound, word = (at_least, "at least") if at_least is not None else (below, "below")
    assert bound is not None
    met = value >= bound if at_least is not None else value < bound
    print(f"{name}: {value:.4g} (aim: {word} {bound:g}; {'met' if met else 'MISSED'})", flush=True)
    return {"value": value, "aim": f"{word} {bound:g}", "met": bool(met)}


def percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share)) if values else float("nan")


def check_answers(answers: Sequence[object], alone: Sequence[object], what: str) -> None:
    """End the program where an answer is not what the model gives when it is asked nothing else."""
    for number, (answer, expected) in enumerate(zip(answers, alone, strict=True)):
        if answer != expected:
            sys.exit(f"Answer {number} of {what} differs from the same answer alone: {answer!r}, not {expected!r}.")


class Prompts:
    """Prompts of random tokens, never the same twice, so that no node holds a part of one already."""

    def __init__(self, vocabulary: int, seed: int = 0) -> None:
        self._vocabulary = vocabulary
        self._random = np.random.default_rng(seed)

    def take(self, count: int, length: int) -> list[Prompt]:
        first = min(256, self._vocabulary // 4)  # the special tokens come first
        return self._random.integers(first, self._vocabulary, (count, length)).tolist()


# The swarm


@contextmanager
def temporary_cache() -> Iterator[Path]:
    """What nodes fetch goes to a folder that is removed at the end."""
    before = os.environ.get("POTLUCK_CACHE")
    with tempfile.TemporaryDirectory(prefix="potluck-benchmark-", ignore_cleanup_errors=True) as folder:
        os.environ["POTLUCK_CACHE"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("POTLUCK_CACHE")
            if before is not None:
                os.environ["POTLUCK_CACHE"] = before


HEAD_LAYERS = 3.5
"""Measured for SmolLM2 on one core, 8 rows at a time: its vocabulary is large for so small a model."""


def pin(process: Process, index: int) -> None:
    """Keep it, and all that it will start, on one core; nothing where there is one core, or no way to."""
    own = psutil.Process(process.popen.pid)
    if hasattr(own, "cpu_affinity") and len(usable_cores()) > 1:
        own.cpu_affinity([usable_cores()[index % len(usable_cores())]])


def balanced_spans(layers: int, parts: int) -> list[Span]:
    """Spans that take about equal time a token, where the head takes as long as HEAD_LAYERS layers."""
    share = (layers + HEAD_LAYERS) / parts
    cuts = [0, *(round(share * part) for part in range(1, parts)), layers]
    return [Span(first, end - 1) for first, end in pairwise(cuts)]


def add_pinned_nodes(swarm: LocalSwarm, model: Path, spans: Sequence[Span], urls: Sequence[str] = ()) -> dict[str, Any]:
    """A node of one thread for each span, each on a core of its own; the status once all serve.

    urls: where each node dials, if that is not the coordinator itself.
    """
    for index, span in enumerate(spans):
        url = urls[index] if urls else None
        pin(
            swarm.add_node(str(span), "--threads", "1", "--model", str(model), "--name", f"layers {span}", url=url),
            index,
        )
    return swarm.wait_covered()


def forbid_optimised(path: Path, nodes: int, cache: Path) -> None:
    """Note in a cache that only the plain layout survived here, which its nodes then believe."""
    from potluck.node.loading import verdict_path

    manifest = open_model(path)
    for span in even_spans(manifest.layers, nodes):
        verdict = verdict_path(cache / span_file_name(manifest, span))
        verdict.parent.mkdir(parents=True, exist_ok=True)
        verdict.write_text("plain")


# The client


@dataclass
class Stream:
    """One streamed answer: its text, when it was asked for, and when each token came (as `time.perf_counter`)."""

    begin: float
    text: str = ""
    moments: list[float] = field(default_factory=list)

    @property
    def first_s(self) -> float:
        return self.moments[0] - self.begin

    @property
    def gaps(self) -> list[float]:
        return [later - sooner for sooner, later in pairwise(self.moments)]


def request(model: str, prompt: Prompt, tokens: int) -> dict[str, object]:
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


def open_client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=600.0, limits=limits, trust_env=False)


async def ask(client: httpx.AsyncClient, model: str, prompt: Prompt, tokens: int) -> Stream:
    """Ends the program when the answer is an error, or has another length."""
    pieces: list[tuple[float, bytes]] = []
    began = time.perf_counter()
    async with client.stream("POST", "/v1/completions", json=request(model, prompt, tokens)) as reply:
        async for piece in reply.aiter_raw():
            pieces.append((time.perf_counter(), piece))
    if reply.status_code != 200:
        sys.exit(f"The coordinator answered with status {reply.status_code}: {b''.join(p for _, p in pieces)!r}")
    answer = _read_events(began, pieces)
    if len(answer.moments) != tokens:
        sys.exit(f"{len(answer.moments)} tokens came where {tokens} were asked for.")
    return answer


def _read_events(began: float, pieces: list[tuple[float, bytes]]) -> Stream:
    """Parsed only now: while tokens come, the client leaves the cores to the nodes."""
    answer, buffer, texts = Stream(began), b"", []
    for moment, piece in pieces:
        *events, buffer = (buffer + piece).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: {"):
                body = json.loads(event[6:])
                if "error" in body:
                    sys.exit(f"An answer broke off: {body['error']['message']}")
                texts.append(body["choices"][0]["text"])
                answer.moments.append(moment)
    answer.text = "".join(texts)
    return answer


def ask_together(url: str, model: str, prompts: Sequence[Prompt], tokens: int) -> list[Stream]:
    """All at once, one stream each."""

    async def run() -> list[Stream]:
        async with open_client(url) as client:
            return await asyncio.gather(*(ask(client, model, prompt, tokens) for prompt in prompts))

    return asyncio.run(run())


def ask_in_turn(url: str, model: str, prompts: Sequence[Prompt], tokens: int) -> list[Stream]:
    """One after the other."""

    async def run() -> list[Stream]:
        async with open_client(url) as client:
            return [await ask(client, model, prompt, tokens) for prompt in prompts]

    return asyncio.run(run())


def ask_whole(url: str, model: str, prompt: Prompt, tokens: int) -> tuple[float, str]:
    """Seconds and text of an answer that is not streamed."""
    body = {**request(model, prompt, tokens), "stream": False}
    began = time.perf_counter()
    reply = httpx.post(f"{url}/v1/completions", json=body, timeout=600.0, trust_env=False)
    seconds = time.perf_counter() - began
    if reply.status_code != 200:
        sys.exit(f"The coordinator answered with status {reply.status_code}: {reply.text}")
    return seconds, reply.json()["choices"][0]["text"]


def tokens_per_s(streams: Sequence[Stream]) -> float:
    """Of all together, prompts included: from the first request to the last token."""
    seconds = max(stream.moments[-1] for stream in streams) - min(stream.begin for stream in streams)
    return sum(len(stream.moments) for stream in streams) / seconds


# The engine without a swarm


@dataclass
class Answers:
    """What engines gave for a batch of prompts. first_s: until all first tokens; seconds: until all tokens."""

    ids: list[list[int]]
    texts: list[str]
    first_s: float
    seconds: float
    step_s: list[float]

    @property
    def tokens_per_s(self) -> float:
        return sum(map(len, self.ids)) / self.seconds


class Engines(AbstractContextManager["Engines"]):
    """A model's spans in one process, run one after the other without a wire: one span is the unsplit engine.

    The process is a child with OpenMP's own settings, which are best where the machine belongs to one engine, and
    with affinity to so many cores as it has threads. It holds still while it is not asked.
    """

    def __init__(
        self, model: Path, spans: Sequence[Span], threads: int, sessions: int = 1, extra_buffers: bool = True
    ) -> None:
        self._threads = threads
        pinned = usable_cores()[:threads]
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        self._pool.submit(_load, model, list(spans), threads, sessions, extra_buffers, pinned).result()

    def answer(self, prompts: Sequence[Prompt], tokens: int, chunk: int = CHUNK, threads: int = 0) -> Answers:
        """All in one batch, greedily; their prompts in batches of `chunk` rows; 0 threads: as many as it has."""
        return self._pool.submit(_answer, list(prompts), tokens, chunk, threads or self._threads).result()

    def alone(self, prompts: Sequence[Prompt], tokens: int) -> list[str]:
        """The text of each answer, given while nothing else is asked. One thread: others may use this machine."""
        return [self.answer([prompt], tokens, threads=1).texts[0] for prompt in prompts]

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


_loaded: dict[str, Any] = {}
"""In the child: its engines, their cores, and the tokenizer."""


def _load(model: Path, spans: list[Span], threads: int, sessions: int, extra_buffers: bool, pinned: list[int]) -> None:
    os.environ["GOMP_SPINCOUNT"] = "300000"
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        process.cpu_affinity(pinned)
    from potluck.coordinator.text.gguf_tokenizer import GgufTokenizer

    with tempfile.TemporaryDirectory() as folder:
        _loaded["engines"] = [_load_span(model, span, threads, sessions, extra_buffers, Path(folder)) for span in spans]
    _loaded["tokenizer"] = GgufTokenizer(model)
    # Where more threads are wanted than there are cores: numbers that no core has.
    _loaded["cores"] = [*pinned, *range(1 << 16, (1 << 16) + threads - len(pinned))]


def _load_span(
    model: Path, span: Span, threads: int, sessions: int, extra_buffers: bool, folder: Path
) -> LlamaCppEngine:
    from potluck.engine.llamacpp import LlamaCppEngine
    from potluck.models.sources import local_source, open_model
    from potluck.models.spanfile import write_span_file
    from potluck.models.spans import plan_span
    from potluck.types import Attention, Capacity

    manifest = open_model(model)
    file = folder / f"{span}.gguf"
    write_span_file(file, *plan_span(manifest, span), local_source(model), lambda _: None)
    return LlamaCppEngine(
        file,
        span=span,
        layers=manifest.layers,
        attention=Attention.EXACT,
        capacity=Capacity(sessions, max(4096, 512 * sessions), CHUNK + 64),
        threads=threads,
        extra_buffers=extra_buffers,
    )


def _answer(prompts: list[Prompt], tokens: int, chunk: int, threads: int) -> Answers:
    """In the child."""
    for engine in _loaded["engines"]:
        engine.use_cores(_loaded["cores"][:threads])
    step_s: list[float] = []
    began = time.perf_counter()
    ids = [[token] for token in _prefill(prompts, chunk)]
    first_s = time.perf_counter() - began
    for step in range(tokens - 1):
        start = time.perf_counter()
        data = [np.array(answer[-1:], np.int32) for answer in ids]
        rows = _forward([(session, len(prompts[session]) + step, data[session], 1) for session in range(len(prompts))])
        for answer, logits in zip(ids, rows, strict=True):
            answer.append(int(logits[0].argmax()))
        step_s.append(time.perf_counter() - start)
    seconds = time.perf_counter() - began
    for engine in _loaded["engines"]:
        for session in range(len(prompts)):
            engine.close(session)
    return Answers(ids, [_text(answer) for answer in ids], first_s, seconds, step_s)


def _prefill(prompts: list[Prompt], chunk: int) -> list[int]:
    """The first token of each answer; every batch is filled with as much of the prompts as it takes."""
    done, first = [0] * len(prompts), [0] * len(prompts)
    while any(position < len(prompt) for position, prompt in zip(done, prompts, strict=True)):
        batch, room = [], chunk
        for session, prompt in enumerate(prompts):
            part = prompt[done[session] : done[session] + room]
            if part:
                ends = done[session] + len(part) == len(prompt)
                batch.append((session, done[session], np.array(part, np.int32), int(ends)))
                done[session] += len(part)
                room -= len(part)
        for (session, _, _, wanted), logits in zip(batch, _forward(batch), strict=True):
            if wanted:
                first[session] = int(logits[0].argmax())
    return first


def _forward(batch: list[tuple[int, int, Any, int]]) -> list[Any]:
    """(session, position, tokens, wanted) through all spans in their order."""
    from potluck.engine.base import Segment

    outputs = [data for _, _, data, _ in batch]
    for engine in _loaded["engines"]:
        head = engine.span.last == engine.layers - 1
        segments: list[Segment] = [
            Segment(session, position, data, engine.span.last, wanted if head else 0)
            for (session, position, _, wanted), data in zip(batch, outputs, strict=True)
        ]
        outputs = engine.forward(segments)
    return outputs


def _text(ids: list[int]) -> str:
    from potluck.coordinator.generation.detokenizer import Detokenizer

    stream = Detokenizer(_loaded["tokenizer"])
    return "".join(map(stream.push, ids)) + stream.finish()


# Slow links


class Proxy(ABC):
    """Stands before the coordinator: for each connection `start` is called for either way. In threads."""

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

    Bytes keep their order. The delay is the line's length, not its width: as many bytes are on their way as come.
    The three may be changed at any time. In threads, because event loops sleep in whole milliseconds.
    """

    def __init__(self, url: str, delay_s: float = 0.0, jitter_s: float = 0.0, bits_per_s: float = float("inf")) -> None:
        self.delay_s = delay_s
        self.jitter_s = jitter_s
        self.bits_per_s = bits_per_s
        self._random = random.Random(0)
        super().__init__(url)

    def start(self, source: socket.socket, sink: socket.socket) -> None:
        line: queue.Queue[tuple[float, bytes]] = queue.Queue(256)  # bounded, as a line's buffers are
        threading.Thread(target=self._read, args=(source, line), daemon=True).start()
        threading.Thread(target=self._write, args=(line, sink), daemon=True).start()

    def _read(self, source: socket.socket, line: queue.Queue[tuple[float, bytes]]) -> None:
        """Every piece with the moment at which it is through. An empty one: the source hung up."""
        free = due = 0.0
        data = b"begin"
        while data:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            free = max(free, time.perf_counter()) + 8 * len(data) / self.bits_per_s
            jitter = self._random.uniform(-self.jitter_s, self.jitter_s)
            due = max(due, free + max(0.0, self.delay_s + jitter))
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
