"""Plans what a node loads for its span, whatever the model's format and the engine.

A span file is a small GGUF that llama.cpp takes for a whole model: the span's layers renumbered from 0, the embedding
before the model's first layer, the norm and the head after its last, and stubs of zeros in place of what the span does
not need.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from potluck.errors import ModelError
from potluck.models import convert, cutting, gguf, huggingface
from potluck.models.architectures import Metadata
from potluck.models.arrays import DTYPES, Array
from potluck.models.convert import DEFAULT_QUANTIZE
from potluck.models.cutting import SpanMetadata
from potluck.models.files import Stored
from potluck.models.gguf_index import read_index
from potluck.models.manifest import Manifest, Tensor
from potluck.models.spanfile import Copied, Header, Piece, Zeros
from potluck.types import ANY_NUMBER, Cuts, EngineKind, Quantize, Span

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
_ROPE_FACTORS = ("rope_factors_short.weight", "rope_factors_long.weight")
_STUB_ROWS = 2
"""The rows of a stub. A middle span needs no vocabulary, but llama.cpp requires one, and tables with as many rows."""

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
_ENTRY = ("token_embd", "position_embd", "token_types")
_OF_VOCABULARY = (EMBEDDING, HEAD, "output.bias")
"""The tensors with an entry for each token."""


def plan_span(manifest: Manifest, span: Span, quantize: Quantize = DEFAULT_QUANTIZE) -> tuple[Header, list[Piece]]:
    """The header and the pieces of the span file, for `write_span_file`.

    quantize: the type that matrices of a Hugging Face model get; a GGUF model keeps its own types.
    Raises ModelError when llama.cpp cannot run the model, SpanError when the span lies outside it or cannot be cut out.
    """
    header, pieces = plan_model(manifest, quantize)
    model = _metadata(header, manifest)
    cutting.cuts(model).check(span)
    part = cutting.SpanMetadata(model, span)
    return _cut_header(part, header.architecture, manifest, span), _cut_pieces(pieces, manifest, span, part)


def plan_model(manifest: Manifest, quantize: Quantize = DEFAULT_QUANTIZE) -> tuple[Header, list[Piece]]:
    """The same for the whole model in one file, without its tokenizer."""
    if manifest.format == "gguf":
        return gguf.model_header(manifest), gguf.model_pieces(manifest)
    return convert.model_header(manifest), convert.model_pieces(manifest, quantize)


def plan_raw_span(manifest: Manifest, span: Span) -> tuple[Header, list[Piece]]:
    """A file with the span's tensors exactly as a Hugging Face model holds them, for the transformers engine.

    GGUF serves only as a container here, which is resumable and verified like every span file. Raises ModelError for
    tensor types that it has no name for, and for a GGUF model.
    """
    if manifest.format == "gguf":
        raise ModelError(f"{manifest.name} is a GGUF file, which only the llama.cpp engine runs.")
    tensors = huggingface.span_tensors(manifest, span.within(manifest.layers))
    return Header("raw", {}), [Piece(t.name, t.shape[::-1], _raw_dtype(t), Copied(t)) for t in tensors]


def _raw_dtype(tensor: Tensor) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType[tensor.dtype]
    except KeyError as error:
        message = f"Tensor {tensor.name} of {tensor.file} has the type {tensor.dtype}, which Potluck cannot carry."
        raise ModelError(message) from error


def read_raw_span(path: Path) -> dict[str, tuple[str, Array]]:
    """Each tensor of such a file: its dtype by safetensors' name, and a view of its items (BF16 as uint16)."""
    return {item.name: (item.dtype, _raw_view(path, item)) for item in read_index(path).tensors}


def _raw_view(path: Path, item: Stored) -> Array:
    return np.memmap(path, np.dtype(DTYPES[item.dtype]), "r", offset=item.offset, shape=item.shape[::-1])


def copied_ranges(path: Path, pieces: list[Piece]) -> dict[str, tuple[int, int]]:
    """The places where the span file of these pieces holds the model's own bytes: a tensor's SHA-256 to its (offset,
    nbytes).
    """
    offsets = {item.name: item.offset for item in read_index(path).tensors}
    copies = [(piece.content.tensor, piece) for piece in pieces if isinstance(piece.content, Copied)]
    return {tensor.sha256: (offsets[piece.name], tensor.nbytes) for tensor, piece in copies}


def span_file_name(manifest: Manifest, span: Span, quantize: Quantize = DEFAULT_QUANTIZE) -> Path:
    """The path of the span file relative to a node's cache. Equal spans of equal models have equal names."""
    kind = "" if manifest.format == "gguf" else f"-{quantize}"
    return Path("spans") / manifest.digest[:32] / f"{span.first}-{span.last}{kind}.gguf"


def most_forgotten(manifest: Manifest, engine: EngineKind) -> int:
    """How many of its latest positions a session can surely forget.

    A layer with a recurrent state knows only the latest one. Of a layer with a sliding window, a session that has been
    moved keeps only what its next position sees, and perhaps the last one.
    """
    return ANY_NUMBER if engine is EngineKind.TRANSFORMERS else cutting.most_forgotten(metadata_of(manifest))


def engines_for(manifest: Manifest) -> tuple[EngineKind, ...]:
    """The engines that can run the model, the preferred one first."""
    if manifest.format == "gguf":
        return (EngineKind.LLAMACPP,)
    try:
        cuts_of(manifest)
    except ModelError:
        return (EngineKind.TRANSFORMERS,)
    return (EngineKind.LLAMACPP, EngineKind.TRANSFORMERS)


def is_proved(manifest: Manifest) -> bool:
    """Whether tests have shown that llama.cpp computes the same bits at every cut of such a model."""
    return manifest.format != "gguf" or cutting.is_known(manifest.architecture)


def _cut_header(part: SpanMetadata, architecture: str, manifest: Manifest, span: Span) -> Header:
    """The model's metadata as the span needs them, and without a tokenizer."""
    entries = part.entries()
    entries[f"{architecture}.vocab_size"] = (["UINT32"], _rows(manifest, span))
    entries["tokenizer.ggml.model"] = (["STRING"], "no_vocab")
    return Header(architecture, entries)


def _metadata(header: Header, manifest: Manifest) -> Metadata:
    return Metadata(header.architecture, header.entries, manifest.layers, manifest.vocabulary)


def metadata_of(manifest: Manifest) -> Metadata:
    """The metadata that llama.cpp gets of the whole model. Raises ModelError when it cannot run the model."""
    header = gguf.model_header(manifest) if manifest.format == "gguf" else convert.model_header(manifest)
    return _metadata(header, manifest)


def cuts_of(manifest: Manifest, engine: EngineKind = EngineKind.LLAMACPP) -> Cuts:
    """The cuts that are allowed. Raises ModelError, with the reason, when this engine cannot run a part of it."""
    return Cuts.anywhere(manifest.layers) if engine is EngineKind.TRANSFORMERS else cutting.cuts(metadata_of(manifest))


def _rows(manifest: Manifest, span: Span) -> int:
    """The rows of the vocabulary's tables: all of them at the model's ends, where one of the tables is real."""
    return manifest.vocabulary if span.first == 0 or span.last == manifest.layers - 1 else _STUB_ROWS


def _cut_pieces(pieces: list[Piece], manifest: Manifest, span: Span, part: SpanMetadata) -> list[Piece]:
    """The span's pieces among those of the whole model, in their order, with the stubs at the end."""
    tied = all(piece.name != HEAD for piece in pieces)
    used = [piece for piece in _settled(pieces, part) if piece.name not in part.unused]
    cut = [_cut(piece, manifest, span, tied, part.leaving) for piece in used]
    return [piece for piece in cut if piece is not None and piece.tensors] + [
        piece for piece in cut if piece is not None and not piece.tensors
    ]


def _settled(pieces: list[Piece], part: SpanMetadata) -> list[Piece]:
    """The pieces with the same rope factors for short contexts as for long ones, if there are both.

    llama.cpp would choose by the size of the whole cache, in which nodes differ.
    """
    factors = {piece.name: piece for piece in pieces if piece.name in _ROPE_FACTORS}
    if len(factors) < len(_ROPE_FACTORS):
        return pieces
    chosen = factors[_ROPE_FACTORS[part.is_long]]
    return [replace(chosen, name=piece.name) if piece.name in factors else piece for piece in pieces]


def _cut(piece: Piece, manifest: Manifest, span: Span, tied: bool, leaving: tuple[str, ...]) -> Piece | None:
    """The piece as the span file holds it; None if it belongs to another layer.

    leaving: the beginnings of the names of what only the last span needs.
    """
    match = _LAYER.fullmatch(piece.name)
    if match:
        layer = int(match[1])
        name = f"blk.{layer - span.first}.{match[2]}"
        return Piece(name, piece.shape, piece.dtype, piece.content) if layer in span else None
    first, last = span.first == 0, span.last == manifest.layers - 1
    if piece.name == EMBEDDING and tied:
        return piece if first or last else _stub(piece, manifest, span)
    if piece.name.startswith(leaving):
        return piece if last else _stub(piece, manifest, span)
    if piece.name.startswith(_ENTRY):
        return piece if first else _stub(piece, manifest, span)
    return piece  # rope factors and the like, which every layer uses


def _stub(piece: Piece, manifest: Manifest, span: Span) -> Piece:
    """Zeros, as few as possible."""
    if piece.name not in _OF_VOCABULARY:
        return Piece(piece.name, piece.shape, piece.dtype, Zeros())
    *columns, _ = piece.shape
    dtype = _smallest(columns[0]) if columns else piece.dtype
    return Piece(piece.name, (*columns, _rows(manifest, span)), dtype, Zeros())


def _smallest(columns: int) -> GGMLQuantizationType:
    for dtype in (GGMLQuantizationType.IQ1_S, GGMLQuantizationType.Q4_0):
        if columns % GGML_QUANT_SIZES[dtype][0] == 0:
            return dtype
    return GGMLQuantizationType.F16
