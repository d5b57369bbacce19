"""A model unsplit in stock llama.cpp, and the same model in spans, to compare their logits bit for bit."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.llama.layouts import Batch
from potluck.llama.library import FLASH_ATTENTION, TYPE_Q8_0, load
from potluck.models.sources import local_source, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import plan_span
from potluck.types import Attention, Capacity, RowFormat, Span
from potluck.wire.rows import pack_rows, unpack_rows

CHUNK = 512
TOKENS = 64

Tokens = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]


class Unsplit:
    """The model's own file in stock llama.cpp with the exact attention setting, through nothing of ours."""

    def __init__(self, path: Path, context: int, cache_type: int = TYPE_Q8_0) -> None:
        self._library = c = load()
        self._model = c.llama_model_load_from_file(str(path).encode(), c.llama_model_default_params())
        params = c.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, CHUNK, CHUNK
        params.n_threads = params.n_threads_batch = 2
        params.type_k = params.type_v = cache_type
        params.flash_attn_type = FLASH_ATTENTION
        self._context = c.llama_init_from_model(self._model, params)
        self._vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model))

    def restart(self) -> None:
        c = self._library
        c.llama_memory_clear(c.llama_get_memory(self._context), True)

    def feed(self, tokens: Tokens) -> Logits:
        """Logits `[V]` after the last of these tokens."""
        c = self._library
        batch_of = c.function("llama_batch_get_one", Batch, [ctypes.POINTER(ctypes.c_int32), ctypes.c_int32])
        logits_of = c.function(
            "llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p, ctypes.c_int32]
        )
        for start in range(0, len(tokens), CHUNK):
            part = (ctypes.c_int32 * len(tokens[start : start + CHUNK]))(*tokens[start : start + CHUNK].tolist())
            assert c.llama_decode(self._context, batch_of(part, len(part))) == 0
        return np.ctypeslib.as_array(logits_of(self._context, -1), (self._vocabulary,)).copy()

    def close(self) -> None:
        c = self._library
        c.llama_free(self._context)
        c.llama_model_free(self._model)


class Pipeline:
    """Engines for some spans, the rows between them going through the wire's format."""

    def __init__(self, path: Path, spans: list[Span], folder: Path, context: int, form: RowFormat = RowFormat.F32):
        manifest = open_model(path)
        self._form = form
        self._position = 0
        self.engines = []
        for span in spans:
            file = folder / f"{span}.gguf"
            write_span_file(file, *plan_span(manifest, span), local_source(path), lambda _: None)
            self.engines.append(
                LlamaCppEngine(
                    file,
                    span=span,
                    layers=manifest.layers,
                    attention=Attention.EXACT,
                    capacity=Capacity(4, context, CHUNK),
                    threads=2,
                )
            )

    def restart(self) -> None:
        self._position = 0
        for engine in self.engines:
            engine.close(1)

    def feed(self, tokens: Tokens, wanted: int = 1) -> Logits:
        """Logits after the last token `[V]`, or of the last `wanted` rows of each chunk `[n, V]`."""
        parts = [self._chunk(tokens[start : start + CHUNK], wanted) for start in range(0, len(tokens), CHUNK)]
        return parts[-1][0] if wanted == 1 else np.concatenate(parts)

    def _chunk(self, data: Tokens, wanted: int) -> Logits:
        rows: npt.NDArray[Any] = data
        for engine in self.engines:
            segment = Segment(1, self._position, rows, engine.span.last, min(wanted, len(data)))
            [rows] = engine.forward([segment])
            if engine.span.last < engine.layers - 1:
                packed = memoryview(pack_rows(rows, self._form))
                rows = unpack_rows(packed, len(data), engine.hidden_size, self._form)
        self._position += len(data)
        return rows

    def close(self) -> None:
        for engine in self.engines:
            engine.unload()


def greedy(model: Unsplit | Pipeline, prompt: Tokens, tokens: int = TOKENS) -> Logits:
    """The logits `[tokens, V]` of so many greedy tokens after the prompt."""
    model.restart()
    logits = [model.feed(prompt)]
    while len(logits) < tokens:
        logits.append(model.feed(logits[-1].argmax(axis=-1, keepdims=True).astype(np.int32)))
    return np.stack(logits)


def surprise(pipeline: Pipeline, tokens: Tokens) -> float:
    """The mean of the negative log-probabilities of all tokens but the first one."""
    pipeline.restart()
    logits = pipeline.feed(tokens, wanted=CHUNK)[:-1].astype(np.float64)
    chosen = logits[np.arange(len(logits)), tokens[1:]]
    largest = logits.max(axis=1)
    totals = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return float((totals - chosen).mean())


def perplexity(pipeline: Pipeline, tokens: Tokens) -> float:
    return float(np.exp(surprise(pipeline, tokens)))


Model = TypeVar("Model", Unsplit, Pipeline)


@contextmanager
def closing(model: Model) -> Iterator[Model]:
    try:
        yield model
    finally:
        model.close()
