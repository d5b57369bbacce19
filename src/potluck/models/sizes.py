"""The bytes that a model takes on nodes: the weights of its parts, and what its layers keep of sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from potluck.models import cutting, huggingface
from potluck.models.architectures import Metadata
from potluck.models.gguf import layer_of
from potluck.models.kept import FLOAT_BYTES, Kept, count_of, kept
from potluck.models.manifest import Manifest
from potluck.models.spanfile import Piece
from potluck.models.spans import EMBEDDING, HEAD, cuts_of, metadata_of, plan_model, plan_span
from potluck.types import Attention, Cuts, EngineKind, Quantize, Span

EXPERTS = "_exps."
"""A part of the names of tensors that hold all experts of a layer."""


@dataclass(frozen=True)
class PartSizes:
    """The bytes of a model's parts once they are loaded: each layer, what comes before the layers, and what comes
    after.

    active: what is read for one token, in each layer and, last, in the head: less than all of it where there are
    experts. The sum is in bytes, but divided among the parts by the number of the weights that they multiply, because
    on CPUs the time of a matrix follows this number, even for one row, more closely than its bytes.
    staged: the bytes that loading takes besides, for one tensor after the other.
    stub: what a span at only one end has besides, such as zeros in place of the other end's table.
    middle: what a span at neither end has beside its layers.
    experts: the part of each layer that are experts; empty where all layers stay in one piece.
    """

    layers: tuple[int, ...]
    entry: int
    head: int
    active: tuple[int, ...]
    staged: int = 0
    stub: int = 0
    middle: int = 0
    experts: tuple[int, ...] = ()

    def of(self, span: Span) -> int:
        first, last = span.first == 0, span.last == len(self.layers) - 1
        ends = first * self.entry + last * self.head + (first != last) * self.stub
        return sum(self.layers[span.first : span.last + 1]) + (ends if first or last else self.middle)


def part_sizes(manifest: Manifest, engine: EngineKind, quantize: Quantize) -> PartSizes:
    """The bytes of weights that a node needs, by parts. For the transformers engine these are the sizes before
    quantizing, and all experts count as active.

    Raises ModelError when the engine cannot run parts of the model.
    """
    if engine is EngineKind.TRANSFORMERS:
        first, last = (huggingface.span_tensors(manifest, Span(layer, layer)) for layer in (0, manifest.layers - 1))
        entry, head = (sum(tensor.nbytes for tensor in end if tensor.layer is None) for end in (first, last))
        sizes = tuple(manifest.layer_bytes())
        return PartSizes(sizes, entry, head, active=(*sizes, head))
    header, pieces = plan_model(manifest, quantize)
    leaving = cutting.row_of(header.architecture).exit
    layers, experts, staged, entry, head = [0] * manifest.layers, [0] * manifest.layers, 0, 0, 0
    for piece in pieces:
        if (layer := layer_of(piece.name)) is not None:
            layers[layer] += piece.nbytes
            experts[layer] += piece.nbytes * is_of_experts(piece.name)
            staged = max(staged, piece.nbytes)
        elif piece.name.startswith(leaving):
            head += piece.nbytes
        else:
            entry += piece.nbytes
    head += entry if _is_tied(pieces) else 0
    active = _active(manifest, pieces, leaving)
    beside = [_beside_layers(manifest, quantize, span) for span in _shortest(cuts_of(manifest))]
    stub = max(0, beside[0] - entry, beside[-1] - head)
    middle = max(beside[1:-1], default=0)
    return PartSizes(tuple(layers), entry, head, active, staged, stub, middle, tuple(experts))


def is_of_experts(name: str) -> bool:
    """Whether the tensor holds all experts of a layer."""
    return EXPERTS in name


def _is_tied(pieces: Sequence[Piece]) -> bool:
    """Whether the head is the embedding once more."""
    return all(piece.name != HEAD for piece in pieces)


def _active(manifest: Manifest, pieces: Sequence[Piece], leaving: tuple[str, ...]) -> tuple[int, ...]:
    """`PartSizes.active`. No part is 0, so that every span takes some time."""
    used, tied = [1 - share for share in _unused(metadata_of(manifest))], _is_tied(pieces)
    nbytes, weights = 0.0, [0.0] * (manifest.layers + 1)
    for piece in pieces:
        layer = layer_of(piece.name)
        if layer is not None or piece.name.startswith(leaving) or (tied and piece.name == EMBEDDING):
            share = used[layer] if layer is not None and is_of_experts(piece.name) else 1
            nbytes += share * piece.nbytes
            weights[-1 if layer is None else layer] += share * prod(piece.shape)
    whole = max(1.0, sum(weights))
    return tuple(max(1, int(nbytes * part / whole)) for part in weights)


def _shortest(cuts: Cuts) -> list[Span]:
    """The shortest span at the beginning, one in the middle if there is one, and the shortest at the end."""
    spans = sorted(cuts.spans(), key=len)
    first = next(one for one in spans if one.first == 0)
    last = next(one for one in spans if one.last == cuts.layers - 1)
    middle = [one for one in spans if one.first > 0 and one.last < cuts.layers - 1]
    return [first, *middle[:1], last]


def _beside_layers(manifest: Manifest, quantize: Quantize, span: Span) -> int:
    _, pieces = plan_span(manifest, span, quantize)
    return sum(piece.nbytes for piece in pieces if layer_of(piece.name) is None)


def _unused(model: Metadata) -> list[float]:
    """The share of its experts that each layer does not use for a token; 0 where there are none."""
    count = count_of(model, "expert_count")
    used = cutting.of_layers(model, "expert_used_count", count)
    return [max(0.0, 1 - one / count) if count and type(one) is int and one > 0 else 0.0 for one in used]


def kept_by(manifest: Manifest, engine: EngineKind, attention: Attention) -> tuple[Kept, ...]:
    """What each layer of a model keeps. Raises ModelError when its metadata cannot be true."""
    if engine is EngineKind.TRANSFORMERS:
        return (Kept(manifest.kv_width * FLOAT_BYTES),) * manifest.layers
    return kept(metadata_of(manifest), attention)
