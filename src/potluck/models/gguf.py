"""GGUF models: their manifest, and the pieces that span files are made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from gguf import GGMLQuantizationType

from potluck.errors import ModelError
from potluck.models.architectures import Recurrent
from potluck.models.cutting import COUNTS, PER_LAYER, PER_LAYER_WITHOUT_NAME, SECTIONS, is_known, row_of
from potluck.models.files import Files, Stored, shown
from potluck.models.gguf_index import GgufIndex
from potluck.models.manifest import Geometry, Manifest, Tensor
from potluck.models.shards import name_of, read_parts
from potluck.models.spanfile import Copied, Header, Piece

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LAYER = re.compile(r"blk\.(\d{1,9})\.(.+)")
_EMBEDDING = "token_embd.weight"
_HEAD = "output.weight"

MOST_TENSORS = 1 << 14
"""GGUF has all experts of a layer in one tensor, so that the largest models of today have some 2,500."""
_MOST_HEADS = 1 << 10
_MOST_LAYERS = 1 << 10
_MOST_COUNT = 1 << 24
LONGEST_HEAD = 1 << 13


def read_manifest(files: Files, file: str, read: Callable[[str], GgufIndex]) -> Manifest:
    """Index the model to which a GGUF file belongs; its tensors are still to be hashed. read: gives a file's index.

    Raises ModelError when a file is not GGUF, is truncated or missing, or lacks what llama.cpp needs.
    """
    parts, where = read_parts(files, file, read), f"{files.location}/{file}"
    metadata = {key: [kinds, value] for key, (kinds, value) in parts.metadata.items()}
    tensors = tuple(_tensor(file, item) for file, item in parts.tensors)
    sizes = geometry(where, metadata, tensors)
    return Manifest(
        format="gguf",
        name=name_of(file),
        architecture=str(_need(where, metadata, "general.architecture")),
        **sizes._asdict(),
        metadata=metadata,
        tensors=tuple(tensor for tensor in tensors if (tensor.layer or 0) < sizes.layers),
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
    if not isinstance(architecture, str) or not _NAME.fullmatch(architecture):
        raise ModelError(f"{where} is of the architecture {shown(architecture)}, which has no such name in llama.cpp.")
    width, layers = _number(where, metadata, f"{architecture}.embedding_length"), _layers(where, metadata, architecture)
    return Geometry(
        layers=layers,
        hidden_size=width,
        vocabulary=_vocabulary(where, tensors, width),
        context=_number(where, metadata, f"{architecture}.context_length"),
        kv_width=_kv_width(where, metadata, architecture, width, layers),
    )


def _layers(where: str, metadata: dict[str, Any], architecture: str) -> int:
    """The layers that are run. Those beyond, which predict several tokens at once, are an addition to the model."""
    key = f"{architecture}.nextn_predict_layers"
    layers = _number(where, metadata, f"{architecture}.block_count", _MOST_LAYERS)
    beyond = metadata.get(key, (None, 0))[1]
    if type(beyond) is not int or not 0 <= beyond < layers:
        raise ModelError(f"{where} gives {shown(beyond)} as its {key}, which is not a number below {layers}.")
    for name in (*(f"{architecture}.{each}" for each in PER_LAYER), *PER_LAYER_WITHOUT_NAME):
        given = metadata.get(name, (None, None))[1]
        if isinstance(given, list) and len(given) not in (layers, layers - beyond):
            raise ModelError(f"{where} gives {len(given)} numbers as its {name}, which are not one for each layer.")
    for name in (f"{architecture}.{each}" for each in COUNTS):
        given = metadata.get(name, (None, 0))[1]
        several = name.removeprefix(f"{architecture}.") in (*PER_LAYER, SECTIONS)
        for count in given if isinstance(given, list) and several else [given]:
            if not isinstance(count, int) or not 0 <= count <= _MOST_COUNT:
                raise ModelError(f"{where} gives {shown(count)} as its {name}, which is no count.")
    return layers - beyond


def _need(where: str, metadata: dict[str, Any], key: str) -> Any:
    if key not in metadata:
        raise ModelError(f"{where} has no metadata {key}; it is not a complete model.")
    return metadata[key][1]


def _number(where: str, metadata: dict[str, Any], key: str, most: int = 1 << 31) -> int:
    return _within(where, key, _need(where, metadata, key), most)


def _within(where: str, key: str, value: Any, most: int, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ModelError(f"{where} gives {shown(value)} as its {key}, which is not a number from {least} to {most}.")
    return value


def _kv_width(where: str, metadata: dict[str, Any], architecture: str, width: int, layers: int) -> int:
    """The values that the widest layer keeps for a position; 1 if none keeps any."""
    prefix = f"{architecture}.attention"
    row = row_of(architecture)
    least = 1 if is_known(architecture) and row.recurrent is Recurrent.NONE else 0
    heads = _counts(where, metadata, f"{prefix}.head_count", 0, least)
    kv_heads = max(_counts(where, metadata, f"{prefix}.head_count_kv", heads, least))
    usual = width // heads[0] if heads[0] else 0
    sizes = [_size(where, metadata, f"{prefix}.{kind}_length", usual) for kind in ("key", "value")]
    return max(1, kv_heads * (sizes[0] if f"{prefix}.key_length_mla" in metadata else sum(sizes)))


def _size(where: str, metadata: dict[str, Any], key: str, usual: int) -> int:
    """The larger one of the sizes of heads: layers with sliding windows may have others."""
    given = [metadata[name][1] for name in (key, f"{key}_swa") if name in metadata]
    return max((_within(where, key, size, LONGEST_HEAD) for size in given), default=usual)


def _counts(where: str, metadata: dict[str, Any], key: str, usual: Any, least: int) -> list[int]:
    """The counts of heads, which the file gives once or for each layer. Layers without attention have none."""
    given = metadata.get(key, (None, usual))[1]
    return [_within(where, key, count, _MOST_HEADS, least) for count in (given if isinstance(given, list) else [given])]


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
