"""Each family through llama.cpp gives what transformers gives, from the files that transformers itself has saved.

f16 weights and llama.cpp's own rounding (its kernels turn activations to f16 as well) leave a few parts in a thousand.
"""

import importlib.util
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import tokenizers

from kit.reference import GREEDY, LAYERS, LONG, Reference, make_references, tokens
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.models.modelfile import write_model_file
from potluck.models.sources import LocalSource, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import plan_span
from potluck.types import Attention, Capacity, Quantize, Span

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("torch", "transformers"))), reason="transformers is not installed"
)

TOLERANCE = 0.01

GROUPED = {"num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "neox-parallel": ("GPTNeoX", {}),
    "neox-serial-half-rotary": ("GPTNeoX", {"use_parallel_residual": False, "rotary_pct": 0.5}),
    "neox-tied": ("GPTNeoX", {"tie_word_embeddings": True}),
    "llama": ("Llama", GROUPED),
    "llama-3.1-tied-biased": (
        "Llama",
        GROUPED | {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "llama-linear": ("Llama", GROUPED | {"rope_parameters": LINEAR}),
    "mistral-wide-heads": ("Mistral", GROUPED | {"head_dim": 64}),
    "qwen2": ("Qwen2", GROUPED | {"tie_word_embeddings": True}),
    "qwen2-yarn": ("Qwen2", GROUPED | {"rope_parameters": YARN}),
    "qwen3": ("Qwen3", GROUPED | {"head_dim": 64}),
}


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    """All of them at once, because loading transformers takes longest."""
    return make_references(CASES, tmp_path_factory.mktemp("references"))


@pytest.fixture(scope="module", params=CASES)
def saved(request: pytest.FixtureRequest, references: dict[str, Reference]) -> Reference:
    """A random model in the directory in which transformers has saved it, and what transformers makes of it."""
    reference = references[request.param]
    assert len(list(reference.folder.glob("*.safetensors"))) > 3
    return reference


class Pipeline:
    """The spans of a model, one engine each, one after the other."""

    def __init__(self, folder, cuts, out, quantize="f16", attention=Attention.FAST):
        manifest = open_model(folder)
        self.engines = []
        for span in cuts:
            header, pieces = plan_span(manifest, span, quantize)
            path = out / f"{span}-{quantize}.gguf"
            write_span_file(path, header, pieces, LocalSource(folder), lambda _: None)
            self.engines.append(engine(path, span, attention))

    def run(self, sequence, position=0):
        """Logits `[n, V]` of these positions."""
        rows = np.asarray(sequence, np.int32)
        for each in self.engines:
            rows = each.forward([Segment(1, position, rows, each.span.last, wanted=len(sequence))])[0]
        return rows

    def unload(self):
        for each in self.engines:
            each.unload()


def engine(path, span, attention):
    return LlamaCppEngine(
        path,
        span=span,
        layers=LAYERS,
        attention=attention,
        capacity=Capacity(sessions=1, positions=256, rows=64),
        threads=1,
        extra_buffers=False,
    )


def greedy(run, prompt):
    logits, chosen = run(prompt, 0), []
    for position in range(len(prompt), len(prompt) + GREEDY):
        chosen.append(int(logits[-1].argmax()))
        logits = run(chosen[-1:], position)
    return chosen


def relative_error(logits, expected):
    return np.linalg.norm(logits - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    "cuts",
    [[Span(0, 3)], [Span(0, 1), Span(2, 3)], [Span(0, 0), Span(1, 2), Span(3, 3)], [Span(i, i) for i in range(4)]],
    ids=lambda cuts: "+".join(map(str, cuts)),
)
def test_logits_and_greedy_tokens_are_those_of_transformers(saved, cuts, tmp_path):
    prompt = tokens()
    pipeline = Pipeline(saved.folder, cuts, tmp_path)
    assert relative_error(pipeline.run(prompt), saved.logits[len(prompt)]) < TOLERANCE
    for each in pipeline.engines:
        each.close(1)
    assert greedy(pipeline.run, saved.prompt) == saved.continuation
    pipeline.unload()


def test_every_cut_gives_the_same_bits(saved, tmp_path):
    results = []
    for cuts in ([Span(0, 3)], [Span(0, 0), Span(1, 2), Span(3, 3)]):
        pipeline = Pipeline(saved.folder, cuts, tmp_path, "q8_0", Attention.EXACT)
        results.append(pipeline.run(tokens()))
        pipeline.unload()
    assert np.array_equal(*results)


def test_long_positions_are_rotated_alike(saved, tmp_path):
    prompt = tokens(LONG)
    pipeline = Pipeline(saved.folder, [Span(0, 3)], tmp_path)
    logits = np.concatenate([pipeline.run(prompt[begin : begin + 50], begin) for begin in range(0, LONG, 50)])
    assert relative_error(logits[-50:], saved.logits[LONG][-50:]) < TOLERANCE
    pipeline.unload()


def test_eight_bits_come_close(saved, tmp_path):
    prompt = tokens()
    pipeline = Pipeline(saved.folder, [Span(0, 1), Span(2, 3)], tmp_path, "q8_0")
    assert relative_error(pipeline.run(prompt), saved.logits[len(prompt)]) < 0.1
    pipeline.unload()


def test_the_converted_file_gives_the_same_in_stock_llama_cpp(saved, tmp_path):
    folder: Path = saved.folder
    vocabulary = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "on"]
    merges = [("o", "n")]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    out = tmp_path / "model.gguf"
    write_model_file(open_model(folder), out, Quantize.F16, LocalSource(folder))
    stock = llama_cpp.Llama(
        str(out), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, use_extra_bufts=False, verbose=False
    )
    prompt = tokens()
    stock.eval(prompt.tolist())
    assert relative_error(stock.scores[: len(prompt)], saved.logits[len(prompt)]) < TOLERANCE
    assert greedy_stock(stock, saved.prompt) == saved.continuation
    assert stock.detokenize(stock.tokenize(b"one two", add_bos=False)) == b"one two"
    stock.close()


def greedy_stock(stock, prompt):
    generator = stock.generate(prompt.tolist(), temp=0.0, top_k=1, repeat_penalty=1.0)
    return [next(generator) for _ in range(GREEDY)]
