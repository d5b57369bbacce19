"""Turns a Hugging Face model into what llama.cpp loads: header and pieces of the whole model, which are still to be
cut.
"""

from __future__ import annotations

import re
from functools import partial

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, get_tensor_name_map

from potluck.errors import ModelError
from potluck.models import families
from potluck.models.arrangements import Form, form
from potluck.models.arrays import Floats
from potluck.models.fields import head_size, usual
from potluck.models.manifest import Manifest, Tensor
from potluck.models.rope import rope_factors
from potluck.models.spanfile import Converted, Header, Piece
from potluck.types import Quantize

QUANTIZE = (Quantize.Q4_0, Quantize.Q8_0, Quantize.F16, Quantize.BF16)
DEFAULT_QUANTIZE = Quantize.Q8_0

_HEAD = "output.weight"
_EMBEDDING = "token_embd.weight"
_POSITIONS = "position_embd.weight"
_NUMBERED = re.compile(r"(.+)\.(experts|norms)\.(\d{1,6})\.(.+)")
"""A tensor of one expert, or the norm of one head, which llama.cpp has in one tensor with all others."""
_ALWAYS_F32 = ("ffn_gate_inp", "ffn_gate_inp_shexp", "position_embd")
"""Matrices that llama.cpp has as float32 (besides norms): what chooses the experts, and positions."""

_Parts = tuple[Tensor, ...]


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
    if family.arch in families.WITH_A_HEAD:
        tensors.setdefault(_HEAD, tensors[_EMBEDDING])
    head = _HEAD if _HEAD in tensors else _EMBEDDING
    config = manifest.metadata["config"]
    pieces = []
    for name, parts in tensors.items():
        wanted = form(_where(manifest), config, family, name, parts)
        bits = Quantize.Q8_0 if name == head and quantize == Quantize.Q4_0 else quantize
        content = Converted(parts, wanted.arrange, wanted.floats)
        pieces.append(Piece(name, wanted.shape[::-1], _dtype(name, wanted, bits), content))
    size = head_size(_where(manifest), usual(config))
    factors = rope_factors(_where(manifest), config, size)
    if factors is not None:
        shape = (len(factors),)
        pieces.append(
            Piece("rope_freqs.weight", shape, GGMLQuantizationType.F32, Converted((), partial(_constant, factors)))
        )
    return pieces


def _constant(values: Floats) -> Floats:
    return values


def _by_name(manifest: Manifest, family: families.Family) -> dict[str, _Parts]:
    """llama.cpp's name for each tensor that it needs, and those that it is made of. A head that is only a copy of the
    embedding is left out.
    """
    names = get_tensor_name_map(family.arch, manifest.layers)
    config = manifest.metadata["config"]
    tied = family.arch in families.WITHOUT_A_HEAD or families.is_tied(config, [each.name for each in manifest.tensors])
    found: dict[str, dict[int, Tensor]] = {}
    for tensor in manifest.tensors:
        if tied and families.is_head(tensor.name):
            continue
        merged, number = _merged(tensor.name)
        name = names.get_name(merged, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(
                f"{manifest.name}/{tensor.file} holds {tensor.name}, which llama.cpp's {family.name} has no place for: "
                "use --engine transformers."
            )
        if not 1 <= len(tensor.shape) <= 2 or not all(tensor.shape):
            raise ModelError(
                f"{manifest.name}/{tensor.file} holds {tensor.name}, which is neither a vector nor a matrix."
            )
        found.setdefault(name, {})[number] = tensor
    tensors = {name: _in_order(manifest, name, parts) for name, parts in found.items()}
    _check_complete(manifest, family, tensors)
    return tensors


def _merged(name: str) -> tuple[str, int]:
    """The name of the tensor in which llama.cpp has this one, and its number among those."""
    found = _NUMBERED.fullmatch(name)
    if found is None:
        return name, 0
    whole = f"{found[1]}.experts" if found[2] == "experts" else found[1]
    return f"{whole}.{found[4]}", int(found[3])


def _in_order(manifest: Manifest, name: str, parts: dict[int, Tensor]) -> _Parts:
    """The tensors to merge. Raises ModelError unless they are alike, and none is missing."""
    experts = name.split(".")[-2].endswith("_exps")
    wanted = usual(manifest.metadata["config"]).get("num_experts") if experts else None
    for number in range(wanted or len(parts)):
        if number not in parts:
            raise ModelError(f"{manifest.name} lacks part {number} of the tensor that llama.cpp calls {name}.")
    ordered = tuple(parts[number] for number in sorted(parts))
    if len({(tensor.shape, tensor.dtype) for tensor in ordered}) > 1 or len(ordered) != (wanted or len(parts)):
        raise ModelError(f"{manifest.name} has parts of {name} that do not fit each other, or config.json.")
    return ordered


def _check_complete(manifest: Manifest, family: families.Family, tensors: dict[str, _Parts]) -> None:
    wanted = sorted(family.ends) + [
        f"blk.{layer}.{name}" for layer in range(manifest.layers) for name in sorted(family.layer)
    ]
    for name in wanted:
        if name not in tensors:
            raise ModelError(f"{manifest.name} lacks the tensor that llama.cpp calls {name}; fetch all its files.")
    vocabulary, context = manifest.vocabulary, usual(manifest.metadata["config"]).get("max_position_embeddings")
    for name, what, count in (
        (_EMBEDDING, "tokens", vocabulary),
        (_HEAD, "tokens", vocabulary),
        (_POSITIONS, "positions", context),
    ):
        if name in tensors and (rows := tensors[name][0].shape[0]) != count:
            source = tensors[name][0].name
            raise ModelError(f"{_where(manifest)} says {count} {what}, but {source} has {rows} rows.")


def _dtype(name: str, wanted: Form, quantize: Quantize) -> GGMLQuantizationType:
    stem = name.split(".")[-2]
    if len(wanted.shape) == 1 or stem.endswith("_norm") or stem in _ALWAYS_F32:
        return GGMLQuantizationType.F32
    dtype = GGMLQuantizationType[quantize.upper()]
    return dtype if wanted.shape[-1] % GGML_QUANT_SIZES[dtype][0] == 0 else GGMLQuantizationType.F16
