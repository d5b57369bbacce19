"""GGUF models: their manifest, and the pieces that span files are made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from gguf import GGMLQuantizationType

from potluck.errors import ModelError
from potluck.models.files import Files, Stored, shown
from potluck.models.gguf_index import GgufIndex
from potluck.models.manifest import Geometry, Manifest, Tensor
from potluck.models.shards import name_of, read_parts
from potluck.models.spanfile import Copied, Header, Piece

ARCHITECTURES = frozenset({"gptneox", "llama", "qwen2", "qwen3"})
"""The architectures whose layers llama.cpp computes without regard to their place in the model; checked at every cut.
"""

_LAYER = re.compile(r"blk\.(\d{1,9})\.(.+)")
_EMBEDDING = "token_embd.weight"
_HEAD = "output.weight"

MOST_TENSORS = 1 << 14
"""GGUF has all experts of a layer in one tensor, so that the largest models of today have some 2,500."""
_MOST_HEADS = 1 << 10
_LONGEST_HEAD = 1 << 13


def read_manifest(files: Files, file: str, read: Callable[[str], GgufIndex]) -> Manifest:
    """Index the model to which a GGUF file belongs; its tensors are still to be hashed. read: gives a file's index.

    Raises ModelError when a file is not GGUF, is truncated or missing, or contains an architecture that no engine runs.
    """
    parts, where = read_parts(files, file, read), f"{files.location}/{file}"
    metadata = {key: [kinds, value] for key, (kinds, value) in parts.metadata.items()}
    tensors = tuple(_tensor(file, item) for file, item in parts.tensors)
    architecture = _need(where, metadata, "general.architecture")
    return Manifest(
        format="gguf",
        name=name_of(file),
        architecture=str(architecture),
        **geometry(where, metadata, tensors)._asdict(),
        metadata=metadata,
        tensors=tensors,
    )


def _tensor(file: str, item: Stored) -> Tensor:
    return Tensor(item.name, file, item.offset, item.nbytes, item.dtype, item.shape, "", layer_of(item.name))


def layer_of(name: str) -> int | None:
    match = _LAYER.fullmatch(name)
    return int(match[1]) if match else None


def geometry(where: str, metadata: dict[str, Any], tensors: Sequence[Tensor]) -> Geometry:
    """The sizes of the model, and so of all that llama.cpp will allocate for it.

    where: the name of the model for messages. Raises ModelError when one is missing or cannot be.
    """
    architecture = _need(where, metadata, "general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelError(
            f"{where} is of the architecture {shown(architecture)}; Potluck's llama.cpp engine runs {known}."
        )
    width = _number(where, metadata, f"{architecture}.embedding_length")
    return Geometry(
        layers=_number(where, metadata, f"{architecture}.block_count"),
        hidden_size=width,
        vocabulary=_vocabulary(where, tensors, width),
        context=_number(where, metadata, f"{architecture}.context_length"),
        kv_width=_kv_width(where, metadata, architecture, width),
    )


def _need(where: str, metadata: dict[str, Any], key: str) -> Any:
    if key not in metadata:
        raise ModelError(f"{where} has no metadata {key}; it is not a complete model.")
    return metadata[key][1]


def _number(where: str, metadata: dict[str, Any], key: str, most: int = 1 << 31) -> int:
    return _within(where, key, _need(where, metadata, key), most)


def _within(where: str, key: str, value: Any, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ModelError(f"{where} gives {shown(value)} as its {key}, which is not a number from 1 to {most}.")
    return value


def _kv_width(where: str, metadata: dict[str, Any], architecture: str, width: int) -> int:
    prefix = f"{architecture}.attention"
    heads = _number(where, metadata, f"{prefix}.head_count", _MOST_HEADS)
    sizes = [
        _within(where, f"{prefix}.{key}", metadata.get(f"{prefix}.{key}", (None, width // heads))[1], _LONGEST_HEAD)
        for key in ("key_length", "value_length")
    ]
    key = f"{prefix}.head_count_kv"
    kv_heads = metadata.get(key, (None, heads))[1]
    each = kv_heads if isinstance(kv_heads, list) else [kv_heads]
    return max(_within(where, key, count, _MOST_HEADS) for count in each) * sum(sizes)


def _vocabulary(where: str, tensors: Sequence[Tensor], width: int) -> int:
    """The number of tokens: the rows of the embedding, and of the head if there is one."""
    shapes = {tensor.name: tensor.shape for tensor in tensors if tensor.name in (_EMBEDDING, _HEAD)}
    if _EMBEDDING not in shapes:
        raise ModelError(f"{where} has no {_EMBEDDING}; it is not a complete model.")
    for name, shape in shapes.items():
        if len(shape) != 2 or shape[0] != width or shape != shapes[_EMBEDDING]:
            raise ModelError(f"{where} has a {name} whose shape does not fit the model.")
    return shapes[_EMBEDDING][1]


def model_header(manifest: Manifest) -> Header:
    """The metadata of the whole model, without the tokenizer."""
    entries = {key: (kinds, value) for key, (kinds, value) in manifest.metadata.items()}
    return Header(manifest.architecture, entries)


def model_pieces(manifest: Manifest) -> list[Piece]:
    """All tensors of the model, which are copied byte for byte."""
    return [
        Piece(tensor.name, tensor.shape, GGMLQuantizationType[tensor.dtype], Copied(tensor))
        for tensor in manifest.tensors
    ]
