"""The forms in which llama.cpp wants the tensors of Hugging Face's families: order of rows, merged experts, shifted
norms.

Shapes: h query heads, g key/value heads, d head size, n columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from gguf import MODEL_ARCH

from potluck.errors import ModelError
from potluck.models.arrays import Array
from potluck.models.families import Family
from potluck.models.fields import Config, field, kv_heads, usual
from potluck.models.manifest import Tensor
from potluck.models.spanfile import as_it_is

_GEMMA = (MODEL_ARCH.GEMMA2, MODEL_ARCH.GEMMA3)
_TRANSPOSED = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
"""The matrices of GPT-2, which multiplies from the other side."""


@dataclass(frozen=True)
class Form:
    """shape: of what `arrange` makes of the tensors' arrays, which are turned into float32 before if `floats`."""

    shape: tuple[int, ...]
    arrange: Callable[..., Array] = as_it_is
    floats: bool = False


def form(where: str, config: Config, family: Family, name: str, tensors: tuple[Tensor, ...]) -> Form:
    """The form of the tensor that llama.cpp knows by this name. Raises ModelError when it does not fit the config."""
    tensor, stem = tensors[0], name.split(".")[-2]
    if len(tensors) > 1:
        return Form((len(tensors), *tensor.shape), _stack)
    if family.arch in _GEMMA and name.endswith("norm.weight"):
        return Form(tensor.shape, _plus_one, floats=True)
    if stem == "ffn_gate_inp_shexp":
        return Form((tensor.shape[-1],), np.ravel)
    if family.arch is MODEL_ARCH.GPT2 and stem in _TRANSPOSED and len(tensor.shape) == 2:
        return Form(tensor.shape[::-1], _transpose)
    return Form(tensor.shape, _rows(where, usual(config), family, stem, tensor))


def _rows(where: str, config: Config, family: Family, stem: str, tensor: Tensor) -> Callable[[Array], Array]:
    """The way in which the rows of this tensor must be reordered."""
    heads, kv = int(field(where, config, "num_attention_heads")), kv_heads(where, config)
    match family.arch, stem:
        case MODEL_ARCH.GPTNEOX, "attn_qkv":
            return partial(_split_qkv, heads=_divides(3 * heads, tensor) // 3, queries=1)
        case MODEL_ARCH.FALCON, "attn_qkv":
            _divides(heads + 2 * kv, tensor)
            return partial(_split_qkv, heads=kv, queries=heads // kv)
        case MODEL_ARCH.LLAMA, "attn_q":
            return partial(_pair_rotary, heads=_divides(2 * heads, tensor) // 2)
        case MODEL_ARCH.LLAMA, "attn_k":
            return partial(_pair_rotary, heads=_divides(2 * kv, tensor) // 2)
    return as_it_is


def _divides(parts: int, tensor: Tensor) -> int:
    if tensor.shape[0] % parts:
        raise ModelError(
            f"{tensor.name} in {tensor.file} has {tensor.shape[0]} rows, which do not fit the heads in config.json."
        )
    return parts


def _split_qkv(values: Array, heads: int, queries: int) -> Array:
    """Turn `[g·(h/g + 2)·d, …]`, with the queries, key and value of each key/value head together, into `[(h + 2g)·d,
    …]`, with all queries first, then all keys.

    heads: g. queries: those of one key/value head, h/g.
    """
    parts = values.reshape(heads, queries + 2, -1, *values.shape[1:])
    ends = (parts[:, :queries], parts[:, queries : queries + 1], parts[:, queries + 1 :])
    return np.concatenate([part.reshape(-1, *values.shape[1:]) for part in ends])


def _pair_rotary(values: Array, heads: int) -> Array:
    """Reorder `[h·d, …]`, in which row i of a head rotates with row i + d/2, so that rows that rotate together are
    neighbours.
    """
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def _transpose(values: Array) -> Array:
    return np.ascontiguousarray(values.T)


def _plus_one(values: Array) -> Array:
    """Gemma's norms multiply by one more than their weights."""
    return values + np.float32(1)


def _stack(*parts: Array) -> Array:
    return np.stack(parts)
