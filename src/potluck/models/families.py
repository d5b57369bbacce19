"""The Hugging Face families that llama.cpp can run: what config.json becomes in GGUF, and which tensors must exist.

Everything here is a pure function of config.json. `where` is the path of that file, for messages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES

from potluck.errors import ModelError
from potluck.models.config_types import check_converted

Config = dict[str, Any]
Entries = dict[str, tuple[list[str], Any]]
"""GGUF metadata: the value types and the value of each key."""


@dataclass(frozen=True)
class Family:
    """One architecture of llama.cpp.

    activations: the values of `hidden_act` that it computes.
    layer: the names, within a layer, of the tensors that llama.cpp requires.
    ends: the same outside the layers. Head and embedding may be one tensor: see `is_tied`.
    """

    arch: MODEL_ARCH
    activations: frozenset[str]
    layer: frozenset[str]
    ends: frozenset[str]

    @property
    def name(self) -> str:
        return MODEL_ARCH_NAMES[self.arch]


def _names(weights: str, both: str = "", biases: str = "") -> frozenset[str]:
    return frozenset(
        [f"{name}.weight" for name in (weights + " " + both).split()]
        + [f"{name}.bias" for name in (both + " " + biases).split()]
    )


_GELU = frozenset({"gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh"})
_SILU = frozenset({"silu", "swish"})
_GATED = "attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_gate ffn_up ffn_down"
_ENDS = _names("token_embd output_norm")

_NEOX = Family(
    MODEL_ARCH.GPTNEOX,
    _GELU,
    _names("", both="attn_norm attn_qkv attn_output ffn_norm ffn_up ffn_down"),
    _names("token_embd", both="output_norm"),
)
_LLAMA = Family(MODEL_ARCH.LLAMA, _SILU, _names(_GATED), _ENDS)
_QWEN2 = Family(MODEL_ARCH.QWEN2, _SILU, _names(_GATED, biases="attn_q attn_k attn_v"), _ENDS)
_QWEN3 = Family(MODEL_ARCH.QWEN3, _SILU, _names(_GATED + " attn_q_norm attn_k_norm"), _ENDS)

FAMILIES = {
    "GPTNeoXForCausalLM": _NEOX,
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _QWEN2,
    "Qwen3ForCausalLM": _QWEN3,
}
"""The families by the first of the `architectures` in config.json."""

_CAUSAL = ("ForCausalLM", "LMHeadModel")


def architecture_of(config: Config) -> str:
    """The class that config.json names, or "" if it names none."""
    names = config.get("architectures") or [""]
    return str(names[0])


def family_of(config: Config) -> Family | None:
    """The family in which llama.cpp runs this model; None if there is none."""
    return FAMILIES.get(architecture_of(config))


def is_causal(config: Config) -> bool:
    """Whether this is a causal language model of any family, which the transformers engine can run."""
    return architecture_of(config).endswith(_CAUSAL)


def known_architecture(where: str, config: Config) -> str:
    """The architecture. Raises ModelError when no engine runs it."""
    if not is_causal(config):
        name = architecture_of(config) or "no architecture"
        known = ", ".join(FAMILIES)
        raise ModelError(
            f"{where} names {name}, which no engine runs: choose a causal language model ({known}, or any other "
            "…ForCausalLM with the transformers engine)."
        )
    return architecture_of(config)


def check_transformers(name: str, model_type: str) -> None:
    """Raises ModelError when the transformers library does not know the model's type. Without the library nothing is
    checked.
    """
    try:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    except ImportError:
        return
    if model_type not in CONFIG_MAPPING_NAMES:
        raise ModelError(
            f"{name} is of the type {model_type}, which no engine runs: llama.cpp runs {', '.join(FAMILIES)}, "
            "and transformers does not know it either."
        )


def is_tied(config: Config, names: Iterable[str]) -> bool:
    """Whether the head is the embedding. names: the tensors that the files hold."""
    return config.get("tie_word_embeddings") is True or not any(is_head(name) for name in names)


def is_head(name: str) -> bool:
    """Whether this is the matrix that turns a hidden row into logits."""
    return name in ("lm_head.weight", "embed_out.weight")


def field(where: str, config: Config, *keys: str) -> Any:
    """The value of the first of these keys that config.json has. Raises ModelError when it has none of them."""
    for key in keys:
        if config.get(key) is not None:
            return config[key]
    raise ModelError(f"{where} has no {keys[0]}; it is not a complete model.")


def sliding_window(config: Config) -> int | None:
    """The number of positions that a layer attends to, if that is fewer than all."""
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return window if isinstance(window, int) and window > 0 else None


def check(where: str, config: Config, family: Family) -> None:
    """Raises ModelError for features of the family's models that llama.cpp, or its GGUF, cannot express."""
    check_converted(where, config)
    if config.get("hidden_act") not in family.activations:
        raise _unable(where, f"the activation {config.get('hidden_act')}")
    if config.get("quantization_config"):
        raise _unable(where, "weights that are already quantized; fetch the model's unquantized files, or")
    if rope(config)["rope_type"] not in ("default", "linear", "yarn", "llama3"):
        raise _unable(where, f"the rope type {rope(config)['rope_type']}")
    if rope(config)["rope_type"] == "llama3" and family is not _LLAMA:
        raise _unable(where, f"the rope type llama3 in {architecture_of(config)}")
    if {"attention_factor", "mscale", "mscale_all_dim"} & rope(config).keys():
        raise _unable(where, "a rope attention factor of its own")
    if family is not _NEOX and rope(config).get("partial_rotary_factor", 1.0) != 1.0:
        raise _unable(where, "a partial rotary embedding")
    if "sliding_attention" in (config.get("layer_types") or []) and family in (_QWEN2, _QWEN3):
        raise _unable(where, "sliding windows")


def _unable(where: str, what: str) -> ModelError:
    return ModelError(f"{where} asks for {what}, which the llama.cpp engine cannot do: use --engine transformers.")


def rope(config: Config) -> dict[str, Any]:
    """The rope parameters under today's names, from today's `rope_parameters` or from the older keys."""
    old, new = config.get("rope_scaling") or {}, config.get("rope_parameters") or {}
    merged = {
        "rope_theta": config.get("rope_theta", config.get("rotary_emb_base", 10_000.0)),
        "rope_type": old.get("type", "default"),
        "partial_rotary_factor": config.get("partial_rotary_factor", config.get("rotary_pct")),
        **old,
        **new,
    }
    return {key: value for key, value in merged.items() if value is not None}


def head_size(where: str, config: Config) -> int:
    heads = int(field(where, config, "num_attention_heads"))
    return int(config.get("head_dim") or int(field(where, config, "hidden_size")) // heads)


def kv_heads(where: str, config: Config) -> int:
    return int(config.get("num_key_value_heads") or field(where, config, "num_attention_heads"))


def metadata(where: str, config: Config, family: Family) -> Entries:
    """The GGUF metadata of the whole model, without tokenizer. Raises ModelError when config.json lacks something."""
    check(where, config, family)
    size = head_size(where, config)
    rotary = int(size * rope(config).get("partial_rotary_factor", 0.25)) if family is _NEOX else size
    entries: Entries = {
        "block_count": _uint(field(where, config, "num_hidden_layers")),
        "context_length": _uint(field(where, config, "max_position_embeddings")),
        "embedding_length": _uint(field(where, config, "hidden_size")),
        "feed_forward_length": _uint(field(where, config, "intermediate_size")),
        "attention.head_count": _uint(field(where, config, "num_attention_heads")),
        "attention.head_count_kv": _uint(kv_heads(where, config)),
        "attention.key_length": _uint(size),
        "attention.value_length": _uint(size),
        "rope.dimension_count": _uint(rotary),
        "rope.freq_base": _float(field(where, rope(config), "rope_theta")),
        "vocab_size": _uint(field(where, config, "vocab_size")),
        **_scaling(where, config),
    }
    if family is _NEOX:
        entries["use_parallel_residual"] = (["BOOL"], bool(config.get("use_parallel_residual", True)))
        entries["attention.layer_norm_epsilon"] = _float(field(where, config, "layer_norm_eps"))
    else:
        entries["attention.layer_norm_rms_epsilon"] = _float(field(where, config, "rms_norm_eps"))
    return {f"{family.name}.{key}": entry for key, entry in entries.items()}


def _uint(value: Any) -> tuple[list[str], int]:
    return ["UINT32"], int(value)


def _float(value: Any) -> tuple[list[str], float]:
    return ["FLOAT32"], float(value)


def _scaling(where: str, config: Config) -> Entries:
    """The keys of the rope scaling. The type llama3 has none: see `rope_factors`."""
    parameters = rope(config)
    kind = parameters["rope_type"]
    if kind not in ("linear", "yarn"):
        return {}
    entries: Entries = {
        "rope.scaling.type": (["STRING"], kind),
        "rope.scaling.factor": _float(field(where, parameters, "factor")),
    }
    if kind == "yarn":
        trained = parameters.get("original_max_position_embeddings") or field(where, config, "max_position_embeddings")
        entries["rope.scaling.original_context_length"] = _uint(trained)
        for beta in ("beta_fast", "beta_slow"):
            if beta in parameters:
                entries[f"rope.scaling.yarn_{beta}"] = _float(parameters[beta])
    return entries


def rope_factors(where: str, config: Config) -> npt.NDArray[np.float32] | None:
    """The number by which llama.cpp divides each rope frequency, `[head size / 2]`; None if frequencies are not scaled.

    Llama 3.1 keeps short wavelengths, divides long ones by `factor`, and blends those in between.
    """
    parameters = rope(config)
    if parameters["rope_type"] != "llama3":
        return None
    size = head_size(where, config)
    factor, low, high, trained = (
        float(field(where, parameters, key))
        for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    if low >= high:
        raise ModelError(f"{where} has a low_freq_factor that is not below its high_freq_factor; fetch it again.")
    wavelengths = 2 * math.pi * float(field(where, parameters, "rope_theta")) ** (np.arange(0, size, 2) / size)
    blend = (trained / wavelengths - low) / (high - low)
    factors = 1 / ((1 - blend) / factor + blend)
    factors = np.where(wavelengths < trained / high, 1.0, np.where(wavelengths > trained / low, factor, factors))
    return factors.astype(np.float32)
