"""Tiny random models of the architectures that llama.cpp has, whose tensors llama.cpp itself lists.

Its loader knows which tensors an architecture has, and their shapes. Given metadata without a file it creates them all,
and asks for their values.
"""

from __future__ import annotations

import ctypes
import zlib
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as c
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.quants import quantize

from potluck.engine import ggml
from potluck.engine.llamacpp import start_library

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
_FLOATS = ("gate_inp", "position_embd", "ssm_", "shortconv.conv", "indexer.proj", "norm", "altup", "attn_rel_b")
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


def write_tiny(path: Path, architecture: str, metadata: dict[str, Any], *, seed: int = 0) -> Path:
    """A random model at `path`. metadata: beside BASE, by keys without the architecture; None leaves one out."""
    entries = {key: value for key, value in (BASE | metadata).items() if value is not None}
    header = path.with_suffix(".header")
    _writer(header, architecture, entries).close()
    tensors = _tensors(header, seed)
    header.unlink()
    writer = _writer(path, architecture, entries, tensors)
    for name, values in tensors.items():
        writer.write_tensor_data(_stored(name, values))
    writer.close()
    return path


def _writer(
    path: Path, architecture: str, entries: dict[str, Any], tensors: dict[str, Array] | None = None
) -> GGUFWriter:
    writer = GGUFWriter(path, architecture)
    writer.add_name(path.stem)
    writer.add_string("tokenizer.ggml.model", "no_vocab")
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
    start_library()
    read = ggml.load("ggml-base").gguf_init_from_file
    read.argtypes, read.restype = [ctypes.c_char_p, _InitParams], ctypes.c_void_p
    set_tensor = ggml.base().ggml_backend_tensor_set
    set_tensor.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    set_tensor.restype = None
    tensors: dict[str, Array] = {}

    def fill(tensor: int, _data: object) -> None:
        name = ggml.base().ggml_get_name(tensor).decode()
        shape = [size for size in _Tensor.from_address(tensor).ne[::-1]]
        while len(shape) > 1 and shape[0] == 1:
            del shape[0]
        values = _values(name, shape, seed)
        set_tensor(tensor, values.ctypes.data, 0, values.nbytes)
        if not name.endswith(_SCALES):
            tensors[name] = values

    make = c._lib.llama_model_init_from_user
    make.argtypes = [ctypes.c_void_p, _SET_TENSOR, ctypes.c_void_p, c.llama_model_params]
    make.restype = ctypes.c_void_p
    params = c.llama_model_default_params()
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
