"""Model files with the sizes of published models and made-up weights, because speed depends on sizes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

from bench.geometries import Model, metadata_of, tensors_of
from potluck.models.manifest import Tensor

Array = np.ndarray[Any, Any]

_DEVIATIONS = {"MXFP4": 2.9, "Q4_0": 4.6, "Q8_0": 74.0, "Q4_K": 240.0}
"""Of each type of blocks, how much the values deviate from 0 if their bytes are random and the scale is 1."""


def write_made_up(path: Path, model: Model) -> None:
    random = np.random.default_rng(0)
    writer = GGUFWriter(path, model.architecture)
    for key, value in metadata_of(model).items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{model.architecture}.{key}", value)
    writer.add_string("tokenizer.ggml.model", "no_vocab")
    writer.add_vocab_size(model.vocabulary)
    tensors = list(tensors_of(model))
    for tensor in tensors:
        dtype = GGMLQuantizationType[tensor.dtype]
        is_float = dtype is GGMLQuantizationType.F32
        kind, shape = (np.float32, tensor.shape[::-1]) if is_float else (np.uint8, _byte_shape(tensor))
        writer.add_tensor_info(tensor.name, shape, np.dtype(kind), tensor.nbytes, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(_values(random, tensor))
    writer.close()


def _byte_shape(tensor: Tensor) -> tuple[int, ...]:
    items, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[tensor.dtype]]
    columns, *rest = tensor.shape
    return (*rest[::-1], columns // items * nbytes)


def _values(random: np.random.Generator, tensor: Tensor) -> Array:
    """Random blocks with a scale that keeps the size of what a matrix is multiplied with, or random floats."""
    columns = tensor.shape[0]
    if tensor.dtype == "F32":
        if "norm" in tensor.name:
            return np.ones(tensor.shape[::-1], np.float32)
        return random.standard_normal(tensor.shape[::-1], np.float32) / np.float32(columns**0.5)
    blocks = np.frombuffer(random.bytes(tensor.nbytes), np.uint8).reshape(_byte_shape(tensor)).copy()
    each = blocks.reshape(-1, GGML_QUANT_SIZES[GGMLQuantizationType[tensor.dtype]][1])
    scale = 1 / (_DEVIATIONS[tensor.dtype] * columns**0.5)
    match tensor.dtype:
        case "MXFP4":  # a power of two
            each[:, 0] = 127 + round(np.log2(scale))
        case "Q4_K":  # a scale of values, and one of what is subtracted: 7.5 times as much, so that the mean is 0
            each[:, :4] = np.array([scale, 7.5 * scale], "<f2").view(np.uint8)
        case _:
            each[:, :2] = np.array([scale], "<f2").view(np.uint8)
    return blocks
