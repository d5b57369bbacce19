"""Hugging Face directories: their manifest, and the tensors of theirs that a span needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from potluck.errors import ModelError
from potluck.models import families
from potluck.models.config_types import check_model
from potluck.models.fields import field, head_size, kv_heads, usual
from potluck.models.files import MOST_TENSORS, Files, Stored, read_json, shown, too_many
from potluck.models.manifest import Geometry, Manifest, Tensor
from potluck.models.pickled import read_checkpoint
from potluck.models.rope import rope_limit
from potluck.models.runnable import check_runnable, quantized_weights
from potluck.models.safetensors import read_safetensors
from potluck.models.text_part import is_wrapper, text_name, text_part
from potluck.types import Span

CONFIG = "config.json"

_Reader = Callable[[Files, str], list[Stored]]
_WEIGHTS: tuple[tuple[str, _Reader], ...] = (
    ("model.safetensors", read_safetensors),
    ("pytorch_model.bin", read_checkpoint),
)
"""The files that hold all weights, in the order of preference. `.index.json` after the name lists shards instead."""

_FLOATS = frozenset({"BF16", "F16", "F32", "F64"})
"""The types of weights that nobody has quantized."""

_MOST_SHARDS = 1 << 10
"""The largest models of today have some 200."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d{1,9})\.")
_BUFFER = re.compile(r"rotary_emb\.inv_freq|(attention|attn)\.masked_bias")
_MASK = re.compile(r"(attention|attn)\.bias")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|embed_in|wte|word_embeddings|tok_embeddings)\.weight")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.")


def read_manifest(files: Files, name: str) -> Manifest:
    """Index the weights; they are still to be hashed.

    Raises ModelError when the directory is not a complete causal language model.
    """
    where = f"{files.location}/{CONFIG}"
    if files.size(CONFIG) is None:
        raise ModelError(f"{where} is missing: give a GGUF file, or the directory of a Hugging Face model.")
    whole = read_json(files, CONFIG, MOST_TENSORS)
    config = text_part(where, whole)
    sizes = geometry(where, config)
    weights = _text_weights(files) if is_wrapper(whole) else _weights(files)
    stored = [(file, item) for file, item in weights if not _is_superfluous(item, sizes.layers)]
    _check_layers(files, stored, sizes.layers)
    _check_unquantized(files, stored)
    _check_vocabulary(where, stored, sizes.vocabulary)
    return Manifest(
        format="huggingface",
        name=name,
        architecture=str(field(where, config, "model_type")),
        **sizes._asdict(),
        metadata={"config": config},
        tensors=tuple(_tensor(file, item) for file, item in stored),
    )


def geometry(where: str, config: dict[str, Any]) -> Geometry:
    """The sizes that config.json gives. Raises ModelError when it lacks one, or names a model that no engine runs."""
    check_model(where, config)
    check_runnable(where, config)
    config = usual(config)
    return Geometry(
        layers=field(where, config, "num_hidden_layers"),
        hidden_size=field(where, config, "hidden_size"),
        vocabulary=field(where, config, "vocab_size"),
        context=_context(where, config),
        kv_width=kv_heads(where, config) * _head_width(config, head_size(where, config)),
    )


def _head_width(config: dict[str, Any], usual: int) -> int:
    """The values of a key and a value together. Models with MLA give the parts of a key."""
    nope, rope = config.get("qk_nope_head_dim"), config.get("qk_rope_head_dim")
    value: int = config.get("v_head_dim") or usual
    return value + (nope + rope if nope and rope else usual)


def _context(where: str, config: dict[str, Any]) -> int:
    """The context, but no more than a sliding window holds where llama.cpp attends to all positions; and no more than
    the factors of the rope are good for.
    """
    context: int = field(where, config, "max_position_embeddings")
    family = families.family_of(config)
    window = families.sliding_window(config) if family and not family.windows else None
    _, factors = rope_limit(config) or ("", context)
    return min(context, factors, window or context)


def _is_superfluous(item: Stored, layers: int) -> bool:
    """Whether a tensor is a constant that old checkpoints contain and every engine computes, or belongs beyond the last
    layer.

    Layers beyond the last one predict several tokens at once, which is an addition to the model.
    """
    is_mask = bool(_MASK.search(item.name)) and len(item.shape) > 1  # GPT-2's own files have it in float32
    return is_mask or bool(_BUFFER.search(item.name)) or (layer_of(item.name) or 0) >= layers


def _text_weights(files: Files) -> Iterator[tuple[str, Stored]]:
    """The tensors of a wrapper's text part, by the names that they have in a text model."""
    for file, item in _weights(files):
        if (name := text_name(item.name)) is not None:
            yield file, msgspec.structs.replace(item, name=name)


def _weights(files: Files) -> Iterator[tuple[str, Stored]]:
    """Every tensor of the model, with its file, from the first form of weights that is complete.

    An index whose parts are missing is often left beside a whole file.
    """
    incomplete: ModelError | None = None
    for whole, reader in _WEIGHTS:
        index = f"{whole}.index.json"
        if files.size(index) is not None:
            try:
                return _sharded(files, index, _shards(files, index), reader)
            except _MissingPart as error:
                incomplete = incomplete or error
        if files.size(whole) is not None:
            return ((whole, item) for item in reader(files, whole))
    names = " or ".join(f"{whole}.index.json or {whole}" for whole, _ in _WEIGHTS)
    raise incomplete or ModelError(f"{files.location} holds no weights: fetch {names} and the files that it lists.")


class _MissingPart(ModelError):
    """An index lists a file that is not there."""


def _shards(files: Files, index: str) -> dict[str, str]:
    """The file of each tensor, all of which exist. Raises _MissingPart, or ModelError for an index that is broken."""
    places = read_json(files, index, 2 * MOST_TENSORS).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{files.location}/{index} has no weight_map; fetch it again.")
    for shard in places.values():
        if not isinstance(shard, str) or "/" in shard or "\\" in shard:
            raise ModelError(
                f"{files.location}/{index} names the file {shown(shard)}, which is not in the same directory."
            )
    shards = sorted(set(places.values()))
    if len(shards) > _MOST_SHARDS:
        raise ModelError(f"{files.location}/{index} names {len(shards)} files, which is more than {_MOST_SHARDS}.")
    for shard in shards:
        if files.size(shard) is None:
            raise _MissingPart(f"{files.location}/{shown(shard)} is missing, but {index} lists it; fetch it.")
    return places


def _sharded(files: Files, index: str, places: dict[str, str], reader: _Reader) -> Iterator[tuple[str, Stored]]:
    found: dict[str, dict[str, Stored]] = {}
    for shard in sorted(set(places.values())):
        found[shard] = {item.name: item for item in reader(files, shard)}
        if sum(map(len, found.values())) > MOST_TENSORS:
            raise too_many(files)
    for name, shard in sorted(places.items()):
        if name not in found[shard]:
            told = f"{shown(shard)} does not hold {shown(name)}, as {index} says"
            raise ModelError(f"{files.location}/{told}; fetch both again.")
        yield shard, found[shard][name]


def _check_layers(files: Files, stored: list[tuple[str, Stored]], layers: int) -> None:
    present = {layer for _, item in stored if (layer := layer_of(item.name)) is not None}
    for layer in range(layers):
        if layer not in present:
            raise ModelError(
                f"{files.location} holds no tensors of layer {layer}, of {layers} by its {CONFIG}; fetch all its files."
            )


def _check_unquantized(files: Files, stored: list[tuple[str, Stored]]) -> None:
    """Raises ModelError when a layer's matrices hold codes: some quantizers leave config.json as it was."""
    for file, item in stored:
        if len(item.shape) > 1 and item.dtype not in _FLOATS and layer_of(item.name) is not None:
            raise quantized_weights(f"{files.location}/{file}", item.name, item.dtype)


def _check_vocabulary(where: str, stored: list[tuple[str, Stored]], vocabulary: int) -> None:
    """Raises ModelError when the embedding has other rows than config.json says, because no engine loads such a one."""
    for _, item in stored:
        if _EMBEDDING.search(item.name) and len(item.shape) == 2 and item.shape[0] != vocabulary:
            raise ModelError(f"{where} says {vocabulary} tokens, but {item.name} has {item.shape[0]} rows.")


def layer_of(name: str) -> int | None:
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def _tensor(file: str, item: Stored) -> Tensor:
    return Tensor(item.name, file, item.offset, item.nbytes, item.dtype, item.shape, "", layer_of(item.name))


def span_tensors(manifest: Manifest, span: Span) -> list[Tensor]:
    """The tensors that a span needs of a Hugging Face model, in the model's own names and layout.

    These are its layers; at the model's ends the embedding and the head (the embedding, if they are one); and every
    other tensor outside the layers. Positions, projections and norms before the layers run in every stage, because the
    stock model's pass begins there even if its result is replaced by hidden rows.
    """
    first, last = span.first == 0, span.last == manifest.layers - 1
    tied = families.is_tied(manifest.metadata["config"], [tensor.name for tensor in manifest.tensors])
    return [tensor for tensor in manifest.tensors if _needs(tensor, span, first, last, tied)]


def _needs(tensor: Tensor, span: Span, first: bool, last: bool, tied: bool) -> bool:
    if tensor.layer is not None:
        return tensor.layer in span
    if families.is_head(tensor.name):
        return last and not tied
    if _EMBEDDING.search(tensor.name):
        return first or (last and tied)
    return last or not _HEAD.search(tensor.name)
