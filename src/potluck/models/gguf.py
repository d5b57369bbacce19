"""GGUF models: their manifest, and the pieces that span files are made of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType

from potluck.errors import ModelError
from potluck.models.files import LocalSource, Progress, sha256
from potluck.models.manifest import Manifest, Tensor
from potluck.models.spanfile import Copied, Header, Piece

ARCHITECTURES = frozenset({"gptneox", "llama", "qwen2", "qwen3"})
"""The architectures whose layers llama.cpp computes without regard to their place in the model; checked at every cut.
"""

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


def read_manifest(path: Path, progress: Progress = lambda _: None) -> Manifest:
    """Index and hash a GGUF file. progress: receives each number of bytes that were hashed.

    Raises ModelError when the file is not GGUF, is truncated, or contains an architecture that no engine runs.
    """
    reader = _open(path)
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    metadata = {
        name: [_value_type(field.types), field.contents()]
        for name, field in fields.items()
        if not name.startswith("tokenizer.")
    }
    architecture = str(_need(path, metadata, "general.architecture"))
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelError(f"{path} is of the architecture {architecture}; Potluck's llama.cpp engine runs {known}.")
    tensors = tuple(_tensor(path, item, progress) for item in reader.tensors)
    return Manifest(
        format="gguf",
        name=path.stem,
        architecture=architecture,
        layers=int(_need(path, metadata, f"{architecture}.block_count")),
        hidden_size=int(_need(path, metadata, f"{architecture}.embedding_length")),
        vocabulary=_vocabulary(path, tensors),
        context=int(_need(path, metadata, f"{architecture}.context_length")),
        kv_width=_kv_width(path, metadata, architecture),
        metadata=metadata,
        tensors=tensors,
    )


def _open(path: Path) -> GGUFReader:
    """The reader, after a check that every byte that the index promises is there."""
    with path.open("rb") as file:
        magic = file.read(4)
    if path.stat().st_size < 24 or magic != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file.")
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is a broken or truncated GGUF file; fetch it again.") from error
    end = max((item.data_offset + item.n_bytes for item in reader.tensors), default=0)
    if not end or end > path.stat().st_size:
        raise ModelError(f"{path} is truncated: {path.stat().st_size} bytes, its index needs {end}; fetch it again.")
    return reader


def _value_type(types: list[GGUFValueType]) -> list[str]:
    return [kind.name for kind in types]


def _need(path: Path, metadata: dict[str, Any], key: str) -> Any:
    if key not in metadata:
        raise ModelError(f"{path} has no metadata {key}; it is not a complete model.")
    return metadata[key][1]


def _kv_width(path: Path, metadata: dict[str, Any], architecture: str) -> int:
    heads = int(_need(path, metadata, f"{architecture}.attention.head_count"))
    usual = int(_need(path, metadata, f"{architecture}.embedding_length")) // heads
    sizes = [
        metadata.get(f"{architecture}.attention.{key}", (None, usual))[1] for key in ("key_length", "value_length")
    ]
    kv_heads = metadata.get(f"{architecture}.attention.head_count_kv", (None, heads))[1]
    most = max(kv_heads) if isinstance(kv_heads, list) else kv_heads
    return int(most) * sum(map(int, sizes))


def _vocabulary(path: Path, tensors: tuple[Tensor, ...]) -> int:
    for tensor in tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[1]
    raise ModelError(f"{path} has no token_embd.weight; it is not a complete model.")


def _tensor(path: Path, item: Any, progress: Progress) -> Tensor:
    layer = _LAYER.fullmatch(item.name)
    return Tensor(
        name=item.name,
        file=path.name,
        offset=int(item.data_offset),
        nbytes=int(item.n_bytes),
        dtype=item.tensor_type.name,
        shape=tuple(int(size) for size in item.shape),
        sha256=sha256(LocalSource(path.parent), path.name, int(item.data_offset), int(item.n_bytes), progress),
        layer=int(layer[1]) if layer else None,
    )


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
