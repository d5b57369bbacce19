"""The split model is the model: equal logits, bit for bit, whatever the cut."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import llama_cpp.llama_cpp as c
import numpy as np
import pytest

from potluck.coordinator.text.gguf_tokenizer import GgufTokenizer
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine, start_library
from potluck.local import demo_model
from potluck.models.sources import local_source, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import plan_span
from potluck.types import Attention, Capacity, RowFormat, Span, even_spans
from potluck.wire.rows import pack_rows, unpack_rows
from tiny import write_tiny_gguf

CHUNK = 512
TOKENS = 64
LONG = 1800
PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n",
    "def fibonacci(n):",
)


@pytest.fixture(scope="module")
def prompts(alice) -> list[np.ndarray]:
    """Four short ones and one of 1,800 tokens."""
    tokenizer = GgufTokenizer(demo_model())
    texts = [tokenizer.encode(text, special=True, bos=True) for text in PROMPTS]
    long = (tokenizer.encode(alice, special=False, bos=True) * 2)[:LONG]
    assert len(long) == LONG
    return [np.array(tokens, np.int32) for tokens in (*texts, long)]


class Unsplit:
    """The model's own file in stock llama.cpp with the exact attention setting, through nothing of ours."""

    def __init__(self, path: Path, context: int, cache_type: int = c.GGML_TYPE_Q8_0) -> None:
        start_library()
        self._model = c.llama_model_load_from_file(str(path).encode(), c.llama_model_default_params())
        params = c.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, CHUNK, CHUNK
        params.n_threads = params.n_threads_batch = 2
        params.type_k = params.type_v = cache_type
        params.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._context = c.llama_init_from_model(self._model, params)
        self._vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model))

    def restart(self) -> None:
        c.llama_memory_clear(c.llama_get_memory(self._context), True)

    def feed(self, tokens: np.ndarray) -> np.ndarray:
        """Logits `[V]` after the last of these tokens."""
        for start in range(0, len(tokens), CHUNK):
            part = (ctypes.c_int32 * len(tokens[start : start + CHUNK]))(*tokens[start : start + CHUNK].tolist())
            assert c.llama_decode(self._context, c.llama_batch_get_one(part, len(part))) == 0
        return np.ctypeslib.as_array(c.llama_get_logits_ith(self._context, -1), (self._vocabulary,)).copy()

    def close(self) -> None:
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

    def feed(self, tokens: np.ndarray, wanted: int = 1) -> np.ndarray:
        """Logits after the last token `[V]`, or of the last `wanted` rows of each chunk `[n, V]`."""
        parts = [self._chunk(tokens[start : start + CHUNK], wanted) for start in range(0, len(tokens), CHUNK)]
        return parts[-1][0] if wanted == 1 else np.concatenate(parts)

    def _chunk(self, data: np.ndarray, wanted: int) -> np.ndarray:
        rows = data
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


def greedy(model: Unsplit | Pipeline, prompt: np.ndarray, tokens: int = TOKENS) -> np.ndarray:
    """The logits `[tokens, V]` of so many greedy tokens after the prompt."""
    model.restart()
    logits = [model.feed(prompt)]
    while len(logits) < tokens:
        logits.append(model.feed(logits[-1].argmax(keepdims=True).astype(np.int32)))
    return np.stack(logits)


@contextmanager
def closing(model):
    try:
        yield model
    finally:
        model.close()


@pytest.fixture(scope="module")
def expected(prompts) -> list[np.ndarray]:
    with closing(Unsplit(demo_model(), 4096)) as model:
        return [greedy(model, prompt) for prompt in prompts]


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 30])
def test_smollm2_is_the_same_bit_for_bit_in_any_number_of_spans(parts, expected, prompts, smollm2, tmp_path):
    with closing(Pipeline(smollm2, even_spans(30, parts), tmp_path, 4096)) as pipeline:
        for prompt, logits in zip(prompts, expected, strict=True):
            assert np.array_equal(greedy(pipeline, prompt), logits)


def perplexity(pipeline: Pipeline, tokens: np.ndarray) -> float:
    pipeline.restart()
    logits = pipeline.feed(tokens, wanted=CHUNK)[:-1].astype(np.float64)
    chosen = logits[np.arange(len(logits)), tokens[1:]]
    largest = logits.max(axis=1)
    totals = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return float(np.exp((totals - chosen).mean()))


def test_f16_rows_change_the_perplexity_by_less_than_half_a_percent(smollm2, alice, tmp_path):
    tokens = np.array(GgufTokenizer(smollm2).encode(alice, special=False, bos=True)[:1000], np.int32)
    assert len(tokens) == 1000
    measured = {}
    for form in RowFormat:
        with closing(Pipeline(smollm2, even_spans(30, 3), tmp_path, 1024, form)) as pipeline:
            measured[form] = perplexity(pipeline, tokens)
    assert 1 < measured[RowFormat.F32] < 50
    assert measured[RowFormat.F16] != measured[RowFormat.F32]  # or f16 was not used at all
    assert abs(measured[RowFormat.F16] / measured[RowFormat.F32] - 1) < 0.005


def cuts(layers: int) -> Iterator[list[Span]]:
    """Whole, every cut in two, and every layer alone."""
    yield [Span(0, layers - 1)]
    for first in range(1, layers):
        yield [Span(0, first - 1), Span(first, layers - 1)]
    yield even_spans(layers, layers)


TINY = [
    ("gptneox", {}),
    ("gptneox", {"parallel_residual": False}),
    ("llama", {"kv_heads": 1}),
    ("llama", {"tied": True}),
]


@pytest.mark.parametrize(("architecture", "options"), TINY)
def test_a_tiny_model_is_the_same_bit_for_bit_at_every_cut(architecture, options, tmp_path):
    layers = 5
    path = write_tiny_gguf(tmp_path / "tiny.gguf", architecture, layers=layers, **options)
    prompt = np.arange(40, dtype=np.int32) * 7 % 300
    with closing(Unsplit(path, 512)) as model:
        logits = greedy(model, prompt, 16)
    for spans in cuts(layers):
        with closing(Pipeline(path, spans, tmp_path, 512)) as pipeline:
            assert np.array_equal(greedy(pipeline, prompt, 16), logits), spans


def test_a_head_size_that_is_no_multiple_of_32_is_exact_with_a_bf16_cache(tmp_path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=3, hidden=96, heads=2)
    prompt = np.arange(30, dtype=np.int32)
    with closing(Unsplit(path, 512, cache_type=30)) as model:
        logits = greedy(model, prompt, 8)
    with closing(Pipeline(path, even_spans(3, 3), tmp_path, 512)) as pipeline:
        assert np.array_equal(greedy(pipeline, prompt, 8), logits)


def test_the_batch_mix_does_not_change_a_bit(smollm2, prompts, tmp_path):
    """Eight sessions in one decode, each step, give each the logits that it gets alone."""
    with closing(Pipeline(smollm2, [Span(0, 29)], tmp_path, 4096)) as pipeline:
        [engine] = pipeline.engines

        @cache
        def alone(session: int) -> bytes:
            return greedy(pipeline, prompts[session % 4] + session, 4).tobytes()

        expected = [alone(session) for session in range(4)]
        pipeline.restart()
        together = [[] for _ in range(4)]
        data = [prompts[session] + session for session in range(4)]
        position = [0] * 4
        for _ in range(4):
            batch = [Segment(10 + s, position[s], data[s], 29, 1) for s in range(4)]
            for session, [row] in enumerate(engine.forward(batch)):
                together[session].append(row)
                position[session] += len(data[session])
                data[session] = row.argmax(keepdims=True).astype(np.int32)
        assert [np.stack(rows).tobytes() for rows in together] == expected
