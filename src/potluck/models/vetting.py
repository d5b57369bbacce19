"""Decides whether a manifest can be true, whoever made it: a coordinator, or a model file of this machine.

A node allocates memory and disk for what the manifest says, and gives it to native libraries. So a size that follows
from others must be the one that follows, and one that follows from nothing must be within bounds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from potluck.errors import ModelError
from potluck.models import gguf, huggingface
from potluck.models.fields import field
from potluck.models.files import MOST_TENSORS, array_bytes, is_plain, shown
from potluck.models.gguf_index import LONGEST_VALUE, MOST_KEYS, ggml_bytes, is_alignment
from potluck.models.manifest import Geometry, Manifest, Tensor

MOST_BYTES = 32 << 20
"""The most bytes of an encoded manifest. Those of the largest models today have 25 MB."""
_MOST_METADATA = 1 << 20
"""The most bytes of its metadata, which become objects of many times that size."""

_MOST = Geometry(layers=1 << 10, hidden_size=1 << 16, vocabulary=1 << 20, context=1 << 24, kv_width=1 << 20)
_LONGEST_NAME = 255
_LONGEST_GGUF_NAME = 63  # llama.cpp's own limit
_LARGEST_FILE = 1 << 50
_MOST_VALUE = 1 << 24
"""The largest number among the metadata of a GGUF architecture; contexts are the largest real ones."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_INTEGERS = {"INT8": 7, "INT16": 15, "INT32": 31, "INT64": 63, "UINT8": 8, "UINT16": 16, "UINT32": 32, "UINT64": 64}
"""The number of bits of the largest value."""


class _Encoded(Manifest, frozen=True, dict=True):
    """A manifest whose metadata are not decoded yet, even if they occur many times."""

    metadata: msgspec.Raw  # type: ignore[assignment]


def decode(data: bytes | bytearray) -> Manifest:
    """Decode a manifest. Raises ModelError when the bytes are not a manifest, or when it cannot be true."""
    if len(data) > MOST_BYTES:
        raise ModelError(f"The manifest has {len(data)} bytes, which is more than {MOST_BYTES >> 20} MiB.")
    try:
        encoded = msgspec.json.decode(data, type=_Encoded)
        if len(encoded.metadata) > _MOST_METADATA:
            raise ModelError(f"The manifest has metadata of more than {_MOST_METADATA >> 10} KiB.")
        fields = msgspec.structs.asdict(encoded)
        manifest = Manifest(**fields | {"metadata": msgspec.json.decode(encoded.metadata, type=dict[str, Any])})
    except (msgspec.DecodeError, RecursionError) as error:
        raise ModelError(f"This is not a Potluck manifest: {error}.") from error
    if not all(_SHA256.fullmatch(tensor.sha256) for tensor in manifest.tensors):
        raise ModelError(f"The manifest of {shown(manifest.name)} lacks the SHA-256 of a tensor.")
    vet(manifest)
    return manifest


def is_name(text: str) -> bool:
    """Whether a model may have this name."""
    return text.isprintable() and 1 <= len(text) <= _LONGEST_NAME


def vet(manifest: Manifest) -> None:
    """Raises ModelError, with the reason, when this cannot be the manifest of a model."""
    name = shown(manifest.name)
    if not is_name(manifest.name):
        raise ModelError(f"A model cannot have the name {name}.")
    for size, most in _MOST._asdict().items():
        if not 1 <= getattr(manifest, size) <= most:
            raise ModelError(
                f"{name} says that its {size} is {shown(getattr(manifest, size))}, which is not from 1 to {most}."
            )
    most_tensors = gguf.MOST_TENSORS if manifest.format == "gguf" else MOST_TENSORS
    if not 1 <= len(manifest.tensors) <= most_tensors:
        raise ModelError(f"{name} claims to have {len(manifest.tensors)} tensors.")
    format_of = {"gguf": (ggml_bytes, gguf.layer_of), "huggingface": (array_bytes, huggingface.layer_of)}
    for tensor in manifest.tensors:
        if fault := _fault(manifest.layers, tensor, *format_of[manifest.format]):
            raise ModelError(f"{name} cannot have the tensor {shown(tensor.name)}, because {fault}.")
    _check_ranges(name, manifest.tensors)
    if manifest.geometry != _check_metadata(name, manifest):
        raise ModelError(f"{name} gives sizes that differ from those in its metadata.")


def _fault(
    layers: int,
    tensor: Tensor,
    bytes_of: Callable[[str, tuple[int, ...]], int],
    layer_of: Callable[[str], int | None],
) -> str | None:
    """Why there can be no such tensor; None if there can."""
    longest = _LONGEST_GGUF_NAME if bytes_of is ggml_bytes else _LONGEST_NAME
    if not tensor.name.isprintable() or not 1 <= len(tensor.name.encode()) <= longest:
        return "no tensor has such a name"
    if not is_plain(tensor.file):
        return f"{shown(tensor.file)} is not the name of a file"
    try:
        nbytes = bytes_of(tensor.dtype, tensor.shape)
    except ValueError as error:
        return str(error)
    if nbytes != tensor.nbytes:
        return f"it says {shown(tensor.nbytes)} bytes and its shape says {nbytes}"
    if bytes_of is ggml_bytes and not nbytes:
        return "it is empty"
    if not 0 <= tensor.offset <= _LARGEST_FILE - nbytes:
        return "its place in the file is impossible"
    if tensor.layer != layer_of(tensor.name) or (tensor.layer or 0) >= layers:
        return "it belongs to no layer of this model"
    return None


def _check_ranges(where: str, tensors: Sequence[Tensor]) -> None:
    """Raises ModelError for names that occur twice, and for tensors that overlap without being the same bytes."""
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise ModelError(f"{where} says that two of its tensors have the same name.")
    ranges = sorted({(tensor.file, tensor.offset, tensor.nbytes) for tensor in tensors})
    for (file, offset, nbytes), (next_file, next_offset, _) in pairwise(ranges):
        if file == next_file and offset + nbytes > next_offset:
            raise ModelError(f"{where} says that some tensors overlap in {shown(file)}.")


def _check_metadata(where: str, manifest: Manifest) -> Geometry:
    """The sizes according to the metadata."""
    if manifest.format == "gguf":
        if len(manifest.metadata) > MOST_KEYS // 2:  # a span file has some more
            raise ModelError(f"{where} claims to have {len(manifest.metadata)} keys.")
        for key, entry in manifest.metadata.items():
            if not _is_entry(key, entry) or not _is_bounded(manifest.architecture, key, entry[1]):
                raise ModelError(f"{where} has an impossible value for {shown(key)}.")
        if manifest.metadata.get("general.architecture", (None, ""))[1] != manifest.architecture:
            raise ModelError(f"{where} gives another architecture than its metadata.")
        return gguf.geometry(where, manifest.metadata, manifest.tensors)
    config = manifest.metadata.get("config")
    if not isinstance(config, dict) or len(manifest.metadata) > 1:
        raise ModelError(f"{where} has metadata other than a config.json.")
    sizes = huggingface.geometry(f"{where}/{huggingface.CONFIG}", config)
    if manifest.architecture != field(where, config, "model_type"):
        raise ModelError(f"{where} gives another architecture than its config.json.")
    return sizes


def _is_bounded(architecture: str, key: str, value: Any) -> bool:
    """Whether llama.cpp can be given this value without allocating or opening something unexpected."""
    if key == "general.alignment":
        return is_alignment(value)
    if key.startswith("split."):  # llama.cpp would open files beside the span file
        return False
    if key.removeprefix(f"{architecture}.attention.").startswith(("key_length_", "value_length_")):
        return type(value) is int and 1 <= value <= gguf.LONGEST_HEAD
    if key.startswith(f"{architecture}."):
        each = value if isinstance(value, list) else [value]
        return all(isinstance(item, str) or -_MOST_VALUE <= item <= 1e15 for item in each) and all(
            item <= _MOST_VALUE for item in each if isinstance(item, int)
        )
    return not key.startswith("tokenizer.")  # nodes have no tokenizer


def _is_entry(key: str, entry: Any) -> bool:
    """Whether this is `[value types, value]`, and the value has these types."""
    match entry:
        case [["ARRAY", str(kind)], [_, *_] as items] if len(items) <= LONGEST_VALUE:
            return len(key.encode()) <= _LONGEST_NAME and all(_is_value(kind, item) for item in items)
        case [[str(kind)], item]:
            return len(key.encode()) <= _LONGEST_NAME and _is_value(kind, item)
    return False


def _is_value(kind: str, value: Any) -> bool:
    if kind in _INTEGERS:
        least = 0 if kind[0] == "U" else -(1 << _INTEGERS[kind])
        return type(value) is int and least <= value < 1 << _INTEGERS[kind]
    if kind in ("FLOAT32", "FLOAT64"):
        return type(value) in (int, float) and abs(value) < 3.4e38
    if kind == "STRING":
        return isinstance(value, str) and len(value.encode()) <= LONGEST_VALUE
    return kind == "BOOL" and isinstance(value, bool)
