"""The engine without a swarm: a model's spans in one process, run one after the other."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from bench.prompts import Prompt
from potluck.platform import usable_cores
from potluck.types import Span

if TYPE_CHECKING:  # the engine is imported late: OpenMP reads its settings then
    from potluck.engine.base import Segment
    from potluck.engine.llamacpp import LlamaCppEngine

CHUNK = 512
"""Rows that the engine without a swarm takes at once."""

REPEATS = 25
"""How often a time is taken whose median counts."""


@dataclass
class Answers:
    """What the engines gave for a batch of prompts.

    first_s: seconds until all first tokens were there. seconds: until all tokens were there.
    """

    ids: list[list[int]]
    texts: list[str]
    first_s: float
    seconds: float
    step_s: list[float]

    @property
    def tokens_per_s(self) -> float:
        return sum(map(len, self.ids)) / self.seconds


class Engines(AbstractContextManager["Engines"]):
    """Runs a model's spans one after the other in one process, without a wire. A single span is the unsplit engine.

    The process is a child. It has OpenMP's own settings, which are best where the machine belongs to one engine, and is
    bound to as many cores as it has threads. It does not compute while it is not asked.
    """

    def __init__(
        self, model: Path, spans: Sequence[Span], threads: int, sessions: int = 1, extra_buffers: bool = True
    ) -> None:
        self._threads = threads
        pinned = usable_cores()[:threads]
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        self._pool.submit(_load, model, list(spans), threads, sessions, extra_buffers, pinned).result()

    def answer(self, prompts: Sequence[Prompt], tokens: int, chunk: int = CHUNK, threads: int = 0) -> Answers:
        """Answer all prompts greedily in one batch, after reading them in batches of `chunk` rows.

        threads: 0 stands for all that it has.
        """
        return self._pool.submit(_answer, list(prompts), tokens, chunk, threads or self._threads).result()

    def alone(self, prompts: Sequence[Prompt], tokens: int) -> list[str]:
        """The text of each answer when nothing else is asked. One thread computes, as others may use this machine."""
        return [self.answer([prompt], tokens, threads=1).texts[0] for prompt in prompts]

    def likeliest(self, text: Prompt, begin: int) -> list[int]:
        """The tokens that the model holds for likeliest in the place of each token of the text from `begin` on."""
        return self._pool.submit(_likeliest, text, begin).result()

    def head_layers(self, rows: int) -> float:
        """The number of layers of the last span that take as long as the head, for a row of each of so many sessions.

        The span has more than one layer.
        """
        layers: float = self._pool.submit(_head_layers, rows).result()
        return layers

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
    from potluck.node.pages import collapse_large_mappings

    with tempfile.TemporaryDirectory() as folder:
        _loaded["engines"] = [_load_span(model, span, threads, sessions, extra_buffers, Path(folder)) for span in spans]
    collapse_large_mappings()  # as a node does
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
    """`Engines.answer`, in the child."""
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


def _likeliest(text: Prompt, begin: int) -> list[int]:
    """`Engines.likeliest`, in the child."""
    fed, found = text[:-1], list[int]()
    for start in range(0, len(fed), CHUNK):
        part = np.array(fed[start : start + CHUNK], np.int32)
        wanted = max(0, min(len(part), start + len(part) - (begin - 1)))
        [logits] = _forward([(0, start, part, wanted)])
        found += logits.argmax(axis=1).tolist() if wanted else []
    for engine in _loaded["engines"]:
        engine.close(0)
    return found


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
    """Send (session, position, tokens, wanted) of each session through all spans in their order."""
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


def _head_layers(rows: int) -> float:
    """`Engines.head_layers`, in the child: from batches that stop before the last layer, and such that do not."""
    engine = _loaded["engines"][-1]
    engine.use_cores(_loaded["cores"])
    last = engine.span.last
    taken: dict[int, list[float]] = {last - 1: [], last: []}
    for _ in range(REPEATS):
        for end, seconds in taken.items():
            seconds.append(_seconds(engine, rows, end))
    before, all_of_it = map(statistics.median, taken.values())
    return max(0.0, (all_of_it - before) * (len(engine.span) - 1) / before - 1)


def _seconds(engine: LlamaCppEngine, rows: int, last: int) -> float:
    """The processor time of a batch of new sessions' first rows, up to this layer. Other programs hardly change it."""
    from potluck.engine.base import Segment
    from potluck.engine.probe import probe_input

    data, wanted = probe_input(engine, rows), int(last == engine.layers - 1)
    began = time.process_time()
    engine.forward([Segment(session, 0, data[session : session + 1], last, wanted) for session in range(rows)])
    seconds = time.process_time() - began
    for session in range(rows):
        engine.close(session)
    return seconds


def _text(ids: list[int]) -> str:
    from potluck.coordinator.generation.detokenizer import Detokenizer

    stream = Detokenizer(_loaded["tokenizer"])
    return "".join(map(stream.push, ids)) + stream.finish()
