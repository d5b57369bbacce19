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

from kit.reference import GREEDY, LONG, Reference, make_references, tokens
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.models.modelfile import write_model_file
from potluck.models.sources import LocalSource, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import cuts_of, plan_span
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

TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
EXPERTS = GROUPED | {"num_experts": 6, "num_experts_per_tok": 4, "moe_intermediate_size": 64}
GEMMA = GROUPED | {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 24, "attn_implementation": "eager"}
FALCON = {"intermediate_size": 512, "num_kv_heads": 2, "initializer_range": 0.05}

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
    "qwen2-moe": ("Qwen2Moe", EXPERTS | {"shared_expert_intermediate_size": 96}),
    "qwen2-moe-tied": ("Qwen2Moe", EXPERTS | {"shared_expert_intermediate_size": 96, "tie_word_embeddings": True}),
    "qwen3-moe": ("Qwen3Moe", EXPERTS | {"head_dim": 64, "norm_topk_prob": True}),
    "phi": ("Phi3", GROUPED | TOKENS),
    "phi-partial-rotary": ("Phi3", GROUPED | TOKENS | {"partial_rotary_factor": 0.5}),
    "gpt2": ("GPT2", TOKENS | {"n_inner": 192}),
    "gpt2-untied": ("GPT2", TOKENS | {"n_inner": 192, "tie_word_embeddings": False}),
    "falcon-7b": ("Falcon", TOKENS | FALCON),
    "falcon-40b": ("Falcon", TOKENS | FALCON | {"new_decoder_architecture": True}),
    "falcon-11b": (
        "Falcon",
        TOKENS
        | FALCON
        | {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "tie_word_embeddings": False},
    ),
    "falcon-heads": ("Falcon", TOKENS | FALCON | {"multi_query": False, "num_kv_heads": 4}),
    "stablelm": ("StableLm", GROUPED | {"use_qkv_bias": True}),
    "stablelm-parallel-normed": (
        "StableLm",
        GROUPED | {"use_parallel_residual": True, "qk_layernorm": True, "tie_word_embeddings": True},
    ),
}
WINDOWED: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": ("Gemma2", GEMMA),
    "gemma3": ("Gemma3", GEMMA | {"num_hidden_layers": 7}),
    "gemma3-linear": ("Gemma3", GEMMA | {"rope_parameters": {"full_attention": LINEAR}}),
}
"""Families whose layers are not all alike, so that not every cut will do."""


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    """All of them at once, because loading transformers takes longest."""
    return make_references(CASES | WINDOWED, tmp_path_factory.mktemp("references"))


@pytest.fixture(scope="module", params=CASES)
def saved(request: pytest.FixtureRequest, references: dict[str, Reference]) -> Reference:
    """A random model in the directory in which transformers has saved it, and what transformers makes of it."""
    reference = references[request.param]
    assert len(list(reference.folder.glob("*.safetensors"))) > 3
    return reference


@pytest.fixture(scope="module", params=CASES | WINDOWED)
def any_saved(request: pytest.FixtureRequest, references: dict[str, Reference]) -> Reference:
    """The same, of any family."""
    return references[request.param]


class Pipeline:
    """The spans of a model, one engine each, one after the other."""

    def __init__(self, folder, cuts, out, quantize="f16", attention=Attention.FAST):
        manifest = open_model(folder)
        self.engines = []
        for span in cuts:
            header, pieces = plan_span(manifest, span, quantize)
            path = out / f"{span}-{quantize}.gguf"
            write_span_file(path, header, pieces, LocalSource(folder), lambda _: None)
            self.engines.append(engine(path, span, attention, manifest.layers))

    def run(self, sequence, position=0):
        """Logits `[n, V]` of these positions."""
        rows = np.asarray(sequence, np.int32)
        for each in self.engines:
            rows = each.forward([Segment(1, position, rows, each.span.last, wanted=len(sequence))])[0]
        return rows

    def unload(self):
        for each in self.engines:
            each.unload()


def engine(path, span, attention, layers):
    return LlamaCppEngine(
        path,
        span=span,
        layers=layers,
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


def relative_error(reference, logits, expected):
    """Where experts are chosen, rounding chooses another one for a row now and then: what counts is the usual row."""
    if "moe" in reference.folder.name:
        rows = np.linalg.norm(logits - expected, axis=1) / np.linalg.norm(expected, axis=1)
        return np.median(rows)
    return np.linalg.norm(logits - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    "cuts",
    [[Span(0, 3)], [Span(0, 1), Span(2, 3)], [Span(0, 0), Span(1, 2), Span(3, 3)], [Span(i, i) for i in range(4)]],
    ids=lambda cuts: "+".join(map(str, cuts)),
)
def test_logits_and_greedy_tokens_are_those_of_transformers(saved, cuts, tmp_path):
    prompt = tokens()
    pipeline = Pipeline(saved.folder, cuts, tmp_path)
    assert relative_error(saved, pipeline.run(prompt), saved.logits[len(prompt)]) < TOLERANCE
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


@pytest.mark.parametrize("name", WINDOWED)
def test_every_allowed_cut_of_layers_with_windows_gives_the_same_bits(references, name, tmp_path):
    folder = references[name].folder
    cuts = cuts_of(open_model(folder))
    chains = [[Span(0, cuts.layers - 1)]]
    chains += [[Span(0, point - 1), Span(point, cuts.layers - 1)] for point in cuts.points[1:-1]]
    results = []
    for chain in (chain for chain in chains if all(map(cuts.allows, chain))):
        pipeline = Pipeline(folder, chain, tmp_path, "q8_0", Attention.EXACT)
        results.append(np.concatenate([pipeline.run(tokens()), pipeline.run(tokens(5), 40)]))
        pipeline.unload()
    assert len(results) >= 2
    assert all(np.array_equal(result, results[0]) for result in results)


def test_long_positions_are_rotated_alike(saved, tmp_path):
    prompt = tokens(LONG)
    pipeline = Pipeline(saved.folder, [Span(0, 3)], tmp_path)
    logits = np.concatenate([pipeline.run(prompt[begin : begin + 50], begin) for begin in range(0, LONG, 50)])
    assert relative_error(saved, logits[-50:], saved.logits[LONG][-50:]) < TOLERANCE
    pipeline.unload()


def test_eight_bits_come_close(saved, tmp_path):
    prompt = tokens()
    pipeline = Pipeline(saved.folder, [Span(0, 1), Span(2, 3)], tmp_path, "q8_0")
    assert relative_error(saved, pipeline.run(prompt), saved.logits[len(prompt)]) < 0.1
    pipeline.unload()


@pytest.fixture
def stock(any_saved, tmp_path):
    """llama.cpp by itself with the converted file, tokenizer included."""
    folder: Path = any_saved.folder
    vocabulary = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "on"]
    merges = [("o", "n")]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    out = tmp_path / "model.gguf"
    write_model_file(open_model(folder), out, Quantize.F16, LocalSource(folder))
    model = llama_cpp.Llama(
        str(out), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, use_extra_bufts=False, verbose=False
    )
    yield model
    model.close()


def test_the_converted_file_gives_the_same_in_stock_llama_cpp(any_saved, stock):
    prompt = tokens()
    stock.eval(prompt.tolist())
    assert relative_error(any_saved, stock.scores[: len(prompt)], any_saved.logits[len(prompt)]) < TOLERANCE
    assert greedy_stock(stock, any_saved.prompt) == any_saved.continuation
    assert stock.detokenize(stock.tokenize(b"one two", add_bos=False)) == b"one two"


def test_it_does_so_far_beyond_its_windows(any_saved, stock):
    stock.eval(tokens(LONG).tolist())
    assert relative_error(any_saved, stock.scores[LONG - 50 : LONG], any_saved.logits[LONG][-50:]) < TOLERANCE


def greedy_stock(stock, prompt):
    generator = stock.generate(prompt.tolist(), temp=0.0, top_k=1, repeat_penalty=1.0)
    return [next(generator) for _ in range(GREEDY)]
