"""The manifest: the content of a model, so that a node can fetch just the bytes of its span and check them."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct


class Tensor(Struct, frozen=True, gc=False):
    """One tensor in the model's files.

    dtype, shape: in the terms of the file's own format (GGUF: "Q4_0", row length first; Hugging Face: "BF16" and the
    like as safetensors names them, rows first). offset, nbytes: its byte range in `file`.
    sha256: empty as long as nobody has read the bytes.
    layer: the layer that it belongs to; None for the embedding, the head and other tensors outside the layers.
    """

    name: str
    file: str
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    layer: int | None


class Geometry(NamedTuple):
    """The sizes of a model, as the manifest has them."""

    layers: int
    hidden_size: int
    vocabulary: int
    context: int
    kv_width: int


class Manifest(Struct, frozen=True, dict=True):
    """A model on disk, without its weights. `potluck.models.vetting` reads one that a stranger sends.

    format, metadata: "gguf", each key with `[value type, value]` (tokenizer keys left out); or "huggingface",
    `{"config": config.json}`.
    architecture: GGUF's name for it, or the `model_type` of config.json.
    context: the longest sequence, in positions, that the model was trained for.
    kv_width: values that the layer with the most keys and values has for one position. What layers really keep depends
    on the engine: see `potluck.models.sizes.kept_by`.
    """

    format: Literal["gguf", "huggingface"]
    name: str
    architecture: str
    layers: int
    hidden_size: int
    vocabulary: int
    context: int
    kv_width: int
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.layers, self.hidden_size, self.vocabulary, self.context, self.kv_width)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 (hex) of the weights and their metadata. Equal models have equal digests, wherever their files
        are.
        """
        parts = [(t.name, t.dtype, t.shape, t.sha256) for t in self.tensors]
        return hashlib.sha256(
            msgspec.json.encode((self.format, self.metadata, sorted(parts)), order="sorted")
        ).hexdigest()

    @cached_property
    def files(self) -> frozenset[str]:
        """The names of the files that hold the tensors, relative to the model's directory."""
        return frozenset(tensor.file for tensor in self.tensors)

    def layer_bytes(self) -> list[int]:
        """The bytes of the tensors of each layer, by layer."""
        sizes = [0] * self.layers
        for tensor in self.tensors:
            if tensor.layer is not None:
                sizes[tensor.layer] += tensor.nbytes
        return sizes

    def encode(self) -> bytes:
        return msgspec.json.encode(self)
