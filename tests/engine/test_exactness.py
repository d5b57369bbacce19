"""The split model is the model: equal logits, bit for bit, whatever the cut and whatever the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kit.pipeline import Pipeline, Unsplit, closing, greedy
from kit.tiny_gguf import write_tiny_gguf
from potluck.types import Span, even_spans


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


@pytest.mark.parametrize("parts", [1, 3])
def test_real_weights_are_the_same_bit_for_bit(parts: int, smollm2: Path, tmp_path: Path) -> None:
    prompt = np.arange(100, 124, dtype=np.int32)  # more rows than one tile of any kernel takes, and a remainder
    with closing(Unsplit(smollm2, 512)) as model:
        logits = greedy(model, prompt, 4)
    with closing(Pipeline(smollm2, even_spans(30, parts), tmp_path, 512)) as pipeline:
        assert np.array_equal(greedy(pipeline, prompt, 4), logits)
