"""Tiny random models of the architectures that llama.cpp has, whose tensors llama.cpp itself lists.

Its loader knows which tensors an architecture has, and their shapes. Given metadata without a file it creates them all,
and asks for their values.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.quants import quantize

from kit.tiny_gguf import CHAT_TEMPLATE, Tokenizer, add_tokenizer, bpe_tokens
from potluck.llama.library import load

Array = npt.NDArray[Any]

_SET_TENSOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
_SCALES = (".scale", ".input_scale")
"""Tensors of files with a type of weights that no other file has."""
_NEGATIVE = ("ssm_a",)
"""Decays of recurrent states, which must be below 0."""
_ABOUT_ONE = (
    "norm.weight",
    "norm_2.weight",
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
)
_FLOATS = ("gate_inp", "position_embd", "ssm_conv1d", "shortconv.conv", "indexer.proj", "norm", "altup", "attn_rel_b")
"""Parts of the names of matrices that llama.cpp never quantizes."""
_BLOCK = 32

LAYERS = 8
VOCABULARY = 288

BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "context_length": 512,
    "embedding_length": 64,
    "block_count": LAYERS,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 32,
    "attention.value_length": 32,
    "attention.layer_norm_epsilon": 1e-5,
    "attention.layer_norm_rms_epsilon": 1e-5,
}
"""What nearly every architecture has, with heads that are grouped, and are not hidden size / heads long."""


_COMMON: dict[str, Any] = {
    "attention.clamp_kqv": 4.0,
    "attention.max_alibi_bias": 8.0,
    "attention.sliding_window": 24,
    "embedding_scale": 3.0,
    "logit_scale": 0.5,
    "residual_scale": 0.3,
    "rope.scaling.original_context_length": 256,
    "use_parallel_residual": True,
}
"""What only some architectures read. The windows are shorter than the prompts of the tests."""
_EXPERTS: dict[str, Any] = {
    "expert_count": 6,
    "expert_feed_forward_length": 64,
    "expert_gating_func": 2,
    "expert_shared_count": 1,
    "expert_shared_feed_forward_length": 96,
    "expert_used_count": 2,
    "expert_weights_norm": True,
    "expert_weights_scale": 1.5,
    "interleave_moe_layer_step": 1,
    "leading_dense_block_count": 2,
}
_SQUARE: dict[str, Any] = {"embedding_length": 128, "attention.key_length": None, "attention.value_length": None}
"""For architectures whose heads are hidden size / heads long."""
_LATENT: dict[str, Any] = {
    "attention.head_count_kv": 1,
    "attention.key_length": 80,
    "attention.key_length_mla": 48,
    "attention.kv_lora_rank": 64,
    "attention.q_lora_rank": 48,
    "attention.value_length": 64,
    "attention.value_length_mla": 32,
    "expert_group_count": 1,
    "rope.dimension_count": 16,
}
"""Multi-head latent attention."""
_INDEXER: dict[str, Any] = {
    "attention.indexer.head_count": 64,
    "attention.indexer.key_length": 128,
    "attention.indexer.top_k": 64,
}
_STATE: dict[str, Any] = {
    "ssm.conv_kernel": 4,
    "ssm.group_count": 2,
    "ssm.inner_size": 128,
    "ssm.state_size": 32,
    "ssm.time_step_rank": 4,
}

_PLAIN_NAMES = """
    llama qwen3 mistral3 arcee ernie4_5 exaone hunyuan-dense jais2 maincoder openelm pangu-embedded refact
    seed_oss granite minicpm gemma gemma2 gemma3 plamo3 smollm3
"""
_SQUARE_NAMES = """
    qwen2 gptneox qwen bitnet chatglm falcon internlm2 jais nemotron olmo orion phi2 phi3 plamo stablelm
    starcoder2 xverse gpt2 starcoder mpt command-r bloom cohere2 olmo2 exaone4
"""
_EXPERT_NAMES = """
    qwen3moe bailingmoe hunyuan-moe minimax-m2 ernie4_5-moe granitemoe gpt-oss mellum exaone-moe cohere2moe
    laguna afmoe llama4 glm4moe hy_v3
"""
CASES: dict[str, dict[str, Any]] = {
    **{name: {} for name in _PLAIN_NAMES.split()},
    **dict.fromkeys(_SQUARE_NAMES.split(), _SQUARE),
    **dict.fromkeys(_EXPERT_NAMES.split(), _EXPERTS),
    "qwen": _SQUARE | {"feed_forward_length": 128},  # of which its matrices have half
    "qwen2moe": _EXPERTS | _SQUARE,
    "arctic": _EXPERTS | _SQUARE,
    "apertus": {
        "xielu.alpha_n": [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2],
        "xielu.alpha_p": [0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8],
        "xielu.beta": [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
        "xielu.eps": [1e-06, 1e-06, 1e-06, 1e-06, 1e-06, 1e-06, 1e-06, 1e-06],
    },
    "codeshell": _SQUARE | {"attention.head_count_kv": 4},
    "dbrx": _EXPERTS | _SQUARE,
    "grovemoe": _EXPERTS | {"expert_group_scale": 0.05, "experts_per_group": 2, "expert_chunk_feed_forward_length": 32},
    "olmoe": _EXPERTS | _SQUARE | {"attention.head_count_kv": 4},
    "phimoe": _EXPERTS | _SQUARE,
    "deepseek": _EXPERTS | _SQUARE,
    "dots1": _EXPERTS | _SQUARE | {"attention.head_count_kv": 4},
    "bailingmoe2": _EXPERTS | _SQUARE,
    "smallthinker": _EXPERTS | {"block_count": 12},
    "deepseek2": _EXPERTS | _LATENT,
    "deepseek32": _EXPERTS | _LATENT | _INDEXER,
    "mamba": _STATE
    | {
        "ssm.group_count": 0,
        "attention.head_count": 0,
        "attention.head_count_kv": 0,
        "attention.key_length": None,
        "attention.value_length": None,
    },
    "mamba2": _STATE
    | {
        "attention.head_count": 0,
        "attention.head_count_kv": 0,
        "attention.key_length": None,
        "attention.value_length": None,
    },
    "falcon-h1": _STATE,
    "qwen3next": _EXPERTS | _STATE,
    "qwen35": _STATE | {"rope.dimension_sections": [4, 4, 4, 4]},
    "qwen35moe": _EXPERTS | _STATE | {"rope.dimension_sections": [4, 4, 4, 4]},
    "jamba": _EXPERTS
    | _SQUARE
    | _STATE
    | {
        "ssm.inner_size": 256,
        "ssm.time_step_rank": 32,
        "attention.head_count_kv": [0, 2, 0, 2, 0, 0, 2, 0],
        "shortconv.l_cache": 3,
    },
    "granitehybrid": _STATE | {"attention.head_count_kv": [0, 2, 0, 2, 0, 0, 2, 0], "shortconv.l_cache": 3},
    "plamo2": _STATE
    | {"ssm.group_count": 0, "attention.head_count_kv": [0, 2, 0, 2, 0, 0, 2, 0], "shortconv.l_cache": 3},
    "nemotron_h": _STATE
    | {
        "attention.head_count_kv": [0, 0, 2, 0, 0, 2, 0, 0],
        "shortconv.l_cache": 3,
        "feed_forward_length": [0, 96, 0, 0, 96, 0, 96, 0],
    },
    "nemotron_h_moe": _EXPERTS
    | _STATE
    | {
        "attention.head_count_kv": [0, 0, 2, 0, 0, 2, 0, 0],
        "shortconv.l_cache": 3,
        "feed_forward_length": [0, 96, 0, 0, 96, 0, 96, 0],
    },
    "lfm2": _SQUARE | {"attention.head_count_kv": [0, 2, 0, 2, 0, 0, 2, 0], "shortconv.l_cache": 3},
    "lfm2moe": _EXPERTS | _SQUARE | {"attention.head_count_kv": [0, 2, 0, 2, 0, 0, 2, 0], "shortconv.l_cache": 3},
    "qwen2vl": _SQUARE | {"rope.dimension_sections": [6, 6, 4, 0]},
    "qwen3vl": {"rope.dimension_sections": [6, 6, 4, 0], "n_deepstack_layers": 3},
    "qwen3vlmoe": _EXPERTS | {"rope.dimension_sections": [6, 6, 4, 0], "n_deepstack_layers": 3},
    "glm4": {"rope.dimension_sections": [6, 6, 4, 0]},
    "mistral4": _EXPERTS | _LATENT,
    "glm-dsa": _EXPERTS | _LATENT | _INDEXER,
    "mimo2": _EXPERTS | {"attention.sliding_window_pattern": [0, 1, 1, 1, 0, 1, 1, 1]},
    "gemma4": {
        "attention.sliding_window_pattern": [1, 1, 1, 0, 1, 1, 1, 0],
        "attention.key_length_swa": 32,
        "attention.value_length_swa": 32,
        "embedding_length_per_layer_input": 0,
        "attention.shared_kv_layers": 0,
    },
}
"""The metadata of a tiny model of each architecture that is proved, beside BASE and _COMMON."""


def write_case(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any] = MappingProxyType({}),
    *,
    beyond: int = 0,
    tokenizer: Tokenizer = "no_vocab",
) -> Path:
    """A tiny model of an architecture of CASES. metadata: what differs from them.

    beyond: the number of layers after its last one, which predict more tokens.
    """
    entries = _COMMON | CASES[architecture] | dict(metadata)
    return write_tiny(path, architecture, entries, beyond=beyond, tokenizer=tokenizer)


def write_tiny(
    path: Path,
    architecture: str,
    metadata: dict[str, Any],
    *,
    beyond: int = 0,
    tokenizer: Tokenizer = "no_vocab",
    seed: int = 0,
) -> Path:
    """A random model at `path`. metadata: beside BASE, by keys without the architecture; None leaves one out.

    With the "bpe" tokenizer the vocabulary is that of `bpe_tokens`.
    """
    rows = {"vocab_size": len(bpe_tokens())} if tokenizer == "bpe" else {}
    entries = {key: value for key, value in (BASE | metadata | rows).items() if value is not None}
    header = path.with_suffix(".header")
    _writer(header, architecture, entries).close()
    tensors = _tensors(header, seed)
    header.unlink()
    if beyond:
        layers = entries["block_count"]
        entries |= {"block_count": layers + beyond, "nextn_predict_layers": beyond}
        last = {name: values for name, values in tensors.items() if name.startswith(f"blk.{layers - 1}.")}
        for layer in range(layers, layers + beyond):
            tensors |= {name.replace(f".{layers - 1}.", f".{layer}.", 1): values for name, values in last.items()}
    writer = _writer(path, architecture, entries, tensors, tokenizer)
    for name, values in tensors.items():
        writer.write_tensor_data(_stored(name, values))
    writer.close()
    return path


def _writer(
    path: Path,
    architecture: str,
    entries: dict[str, Any],
    tensors: dict[str, Array] | None = None,
    tokenizer: Tokenizer = "no_vocab",
) -> GGUFWriter:
    writer = GGUFWriter(path, architecture)
    writer.add_name(path.stem)
    add_tokenizer(writer, tokenizer, entries["vocab_size"], CHAT_TEMPLATE)
    for key, value in entries.items():
        writer.add_key_value(key if "xielu" in key else f"{architecture}.{key}", value, *_kinds(value))
    for name, values in (tensors or {}).items():
        stored = _stored(name, values)
        dtype = GGMLQuantizationType.F32 if stored.dtype == np.float32 else GGMLQuantizationType.Q8_0
        writer.add_tensor_info(name, stored.shape, stored.dtype, stored.nbytes, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer


def _kinds(value: Any) -> tuple[GGUFValueType, GGUFValueType | None]:
    match value:
        case list():
            return GGUFValueType.ARRAY, _kinds(value[0])[0]
        case bool():
            return GGUFValueType.BOOL, None
        case int():
            return GGUFValueType.UINT32, None
        case float():
            return GGUFValueType.FLOAT32, None
    return GGUFValueType.STRING, None


def _stored(name: str, values: Array) -> Array:
    """The values as files have them: of matrices in blocks, the bits do not depend on how many rows are computed."""
    is_matrix = values.ndim > 1 and name.endswith(".weight") and not any(part in name for part in _FLOATS)
    return quantize(values, GGMLQuantizationType.Q8_0) if is_matrix and values.shape[-1] % _BLOCK == 0 else values


def _tensors(header: Path, seed: int) -> dict[str, Array]:
    """Random values for each tensor that llama.cpp wants with this metadata, in NumPy's order."""
    c = load()
    read = c.function("gguf_init_from_file", ctypes.c_void_p, [ctypes.c_char_p, _InitParams])
    tensors: dict[str, Array] = {}

    def fill(tensor: int, _data: object) -> None:
        name = c.ggml_get_name(tensor).decode()
        shape = list(_Tensor.from_address(tensor).ne[::-1])
        while len(shape) > 1 and shape[0] == 1:
            del shape[0]
        values = _values(name, shape, seed)
        c.ggml_backend_tensor_set(tensor, values.ctypes.data, 0, values.nbytes)
        if not name.endswith(_SCALES):
            tensors[name] = values

    params = c.llama_model_default_params()
    kinds = [ctypes.c_void_p, _SET_TENSOR, ctypes.c_void_p, type(params)]
    make = c.function("llama_model_init_from_user", ctypes.c_void_p, kinds)
    params.n_gpu_layers = 0
    filler = _SET_TENSOR(fill)
    model = make(read(str(header).encode(), _InitParams(True, None)), filler, None, params)
    assert model, f"llama.cpp makes no model of {header}."
    c.llama_model_free(model)
    return tensors


class _InitParams(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


class _Tensor(ctypes.Structure):
    """The beginning of `struct ggml_tensor`."""

    _fields_ = [("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4)]


def _values(name: str, shape: list[int], seed: int) -> Array:
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = random.normal(0, 0.1, shape).astype(np.float32)
    if any(part in name for part in _NEGATIVE):
        return -np.abs(values)
    return values + 1 if name.endswith(_ABOUT_ONE) else values
