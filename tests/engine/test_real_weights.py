"""SmolLM2's real weights, split: equal logits, bit for bit, whatever the cut, over long prompts too."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from kit.pipeline import Pipeline, Unsplit, closing, greedy, perplexity
from potluck.coordinator.text.gguf_tokenizer import GgufTokenizer
from potluck.engine.base import Segment
from potluck.local import demo_model
from potluck.types import RowFormat, Span, even_spans

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


@pytest.fixture(scope="module")
def expected(prompts) -> list[np.ndarray]:
    with closing(Unsplit(demo_model(), 4096)) as model:
        return [greedy(model, prompt) for prompt in prompts]


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 30])
def test_smollm2_is_the_same_bit_for_bit_in_any_number_of_spans(parts, expected, prompts, smollm2, tmp_path):
    with closing(Pipeline(smollm2, even_spans(30, parts), tmp_path, 4096)) as pipeline:
        for prompt, logits in zip(prompts, expected, strict=True):
            assert np.array_equal(greedy(pipeline, prompt), logits)


def test_rounded_rows_hardly_change_the_perplexity(smollm2, alice, tmp_path):
    """By less than half a percent in f16, and by less than one in q8."""
    tokens = np.array(GgufTokenizer(smollm2).encode(alice, special=False, bos=True)[:1000], np.int32)
    assert len(tokens) == 1000
    measured = {}
    for form in RowFormat:
        with closing(Pipeline(smollm2, even_spans(30, 3), tmp_path, 1024, form)) as pipeline:
            measured[form] = perplexity(pipeline, tokens)
    assert 1 < measured[RowFormat.F32] < 50
    assert len(set(measured.values())) == len(RowFormat)  # or some form was not used at all
    assert abs(measured[RowFormat.F16] / measured[RowFormat.F32] - 1) < 0.005
    assert abs(measured[RowFormat.Q8] / measured[RowFormat.F32] - 1) < 0.01


def test_the_batch_mix_does_not_change_a_bit(smollm2, prompts, tmp_path):
    """Eight sessions in one decode, each step, give each the logits that it gets alone."""
    with closing(Pipeline(smollm2, [Span(0, 29)], tmp_path, 4096)) as pipeline:
        [engine] = pipeline.engines

        @cache
        def alone(session: int) -> bytes:
            return greedy(pipeline, prompts[session % 4] + session, 4).tobytes()

        expected = [alone(session) for session in range(4)]
        pipeline.restart()
        together: list[list[bytes]] = [[] for _ in range(4)]
        data = [prompts[session] + session for session in range(4)]
        position = [0] * 4
        for _ in range(4):
            batch = [Segment(10 + s, position[s], data[s], 29, 1) for s in range(4)]
            for session, [row] in enumerate(engine.forward(batch)):
                together[session].append(row)
                position[session] += len(data[session])
                data[session] = row.argmax(keepdims=True).astype(np.int32)
        assert [np.stack(rows).tobytes() for rows in together] == expected
