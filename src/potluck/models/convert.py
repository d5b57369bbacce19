"""Turns a Hugging Face model into what llama.cpp loads: header and pieces of the whole model, which are still to be
cut.

Shapes: h heads, d head size, n columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from gguf import GGML_QUANT_SIZES, MODEL_ARCH, GGMLQuantizationType, get_tensor_name_map

from potluck.errors import ModelError
from potluck.models import families
from potluck.models.arrays import Array, Floats
from potluck.models.fields import field
from potluck.models.manifest import Manifest, Tensor
from potluck.models.rope import rope_factors
from potluck.models.spanfile import Converted, Header, Piece, as_it_is
from potluck.types import Quantize

QUANTIZE = (Quantize.Q4_0, Quantize.Q8_0, Quantize.F16, Quantize.BF16)
DEFAULT_QUANTIZE = Quantize.Q8_0

_HEAD = "output.weight"
_EMBEDDING = "token_embd.weight"


def family_of(manifest: Manifest) -> families.Family:
    """The family of this model. Raises ModelError when llama.cpp does not run models of this architecture."""
    family = families.family_of(manifest.metadata["config"])
    if family is None:
        known = ", ".join(families.FAMILIES)
        name = families.architecture_of(manifest.metadata["config"])
        raise ModelError(
            f"{_where(manifest)} names {name}, which the llama.cpp engine cannot run (it runs {known}): "
            "use --engine transformers."
        )
    return family


def _where(manifest: Manifest) -> str:
    return f"{manifest.name}/config.json"


def model_header(manifest: Manifest) -> Header:
    """The GGUF metadata of the whole model, without the tokenizer."""
    family = family_of(manifest)
    entries = families.metadata(_where(manifest), manifest.metadata["config"], family)
    return Header(family.name, {"general.name": (["STRING"], manifest.name), **entries})


def model_pieces(manifest: Manifest, quantize: Quantize) -> list[Piece]:
    """The tensors of the whole model, under llama.cpp's names.

    Matrices are quantized. Those whose rows are not a whole number of blocks become f16, and vectors become f32. The
    head decides every token, so it has at least 8 bits, as in llama.cpp's own recipes.
    Raises ModelError when a tensor is missing or has no place in llama.cpp.
    """
    if quantize not in QUANTIZE:
        raise ModelError(f"llama.cpp's layers can have the types {', '.join(QUANTIZE)}, not {quantize}.")
    family = family_of(manifest)
    families.check(_where(manifest), manifest.metadata["config"], family)
    tensors = _by_name(manifest, family)
    if family.arch is MODEL_ARCH.GPTNEOX:  # which wants a head of its own
        tensors.setdefault(_HEAD, tensors[_EMBEDDING])
    head = _HEAD if _HEAD in tensors else _EMBEDDING
    pieces = [
        Piece(
            name,
            tuple(reversed(tensor.shape)),
            _dtype(tensor, Quantize.Q8_0 if name == head and quantize == Quantize.Q4_0 else quantize),
            Converted((tensor,), _arrangement(name, tensor, manifest, family)),
        )
        for name, tensor in tensors.items()
    ]
    config = manifest.metadata["config"]
    factors = rope_factors(_where(manifest), config, families.head_size(_where(manifest), config))
    if factors is not None:
        shape = (len(factors),)
        pieces.append(
            Piece("rope_freqs.weight", shape, GGMLQuantizationType.F32, Converted((), partial(_constant, factors)))
        )
    return pieces


def _constant(values: Floats) -> Floats:
    return values


def _by_name(manifest: Manifest, family: families.Family) -> dict[str, Tensor]:
    """llama.cpp's name for each tensor that it needs. A head that is only a copy of the embedding is left out."""
    names = get_tensor_name_map(family.arch, manifest.layers)
    tied = families.is_tied(manifest.metadata["config"], [tensor.name for tensor in manifest.tensors])
    tensors: dict[str, Tensor] = {}
    for tensor in manifest.tensors:
        if tied and families.is_head(tensor.name):
            continue
        name = names.get_name(tensor.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(
                f"{manifest.name}/{tensor.file} holds {tensor.name}, which llama.cpp's {family.name} has no place for: "
                "use --engine transformers."
            )
        if not 1 <= len(tensor.shape) <= 2 or not all(tensor.shape):
            raise ModelError(
                f"{manifest.name}/{tensor.file} holds {tensor.name}, which is neither a vector nor a matrix."
            )
        tensors[name] = tensor
    _check_complete(manifest, family, tensors)
    return tensors


def _check_complete(manifest: Manifest, family: families.Family, tensors: dict[str, Tensor]) -> None:
    wanted = sorted(family.ends) + [
        f"blk.{layer}.{name}" for layer in range(manifest.layers) for name in sorted(family.layer)
    ]
    for name in wanted:
        if name not in tensors:
            raise ModelError(f"{manifest.name} lacks the tensor that llama.cpp calls {name}; fetch all its files.")
    for name, what in ((_EMBEDDING, "embedding"), (_HEAD, "head")):
        if name in tensors and (rows := tensors[name].shape[0]) != manifest.vocabulary:
            raise ModelError(f"{_where(manifest)} says {manifest.vocabulary} tokens, but the {what} has {rows} rows.")


def _dtype(tensor: Tensor, quantize: Quantize) -> GGMLQuantizationType:
    if len(tensor.shape) == 1:
        return GGMLQuantizationType.F32
    dtype = GGMLQuantizationType[quantize.upper()]
    return dtype if tensor.shape[-1] % GGML_QUANT_SIZES[dtype][0] == 0 else GGMLQuantizationType.F16


def _arrangement(name: str, tensor: Tensor, manifest: Manifest, family: families.Family) -> Callable[[Array], Array]:
    """The way in which the rows of this tensor must be reordered for llama.cpp."""
    config, where = manifest.metadata["config"], _where(manifest)
    heads = int(field(where, config, "num_attention_heads"))
    stem = name.split(".")[-2]
    if family.arch is MODEL_ARCH.GPTNEOX and stem == "attn_qkv":
        return partial(_split_qkv, heads=_divides(3 * heads, tensor) // 3)
    if family.arch is MODEL_ARCH.LLAMA and stem == "attn_q":
        return partial(_pair_rotary, heads=_divides(2 * heads, tensor) // 2)
    if family.arch is MODEL_ARCH.LLAMA and stem == "attn_k":
        return partial(_pair_rotary, heads=_divides(2 * families.kv_heads(where, config), tensor) // 2)
    return as_it_is


def _divides(parts: int, tensor: Tensor) -> int:
    if tensor.shape[0] % parts:
        raise ModelError(
            f"{tensor.name} in {tensor.file} has {tensor.shape[0]} rows, which do not fit the heads in config.json."
        )
    return parts


def _split_qkv(values: Array, heads: int) -> Array:
    """Turn `[h·3·d, …]`, with query, key and value of each head together, into `[3·h·d, …]`, with all queries first."""
    parts = values.reshape(heads, 3, -1, *values.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(0, 1)).reshape(values.shape)


def _pair_rotary(values: Array, heads: int) -> Array:
    """Reorder `[h·d, …]`, in which row i of a head rotates with row i + d/2, so that rows that rotate together are
    neighbours.
    """
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
