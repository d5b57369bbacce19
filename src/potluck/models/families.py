"""The Hugging Face families that llama.cpp can run: what config.json becomes in GGUF, and which tensors must exist.

Everything here is a pure function of config.json. `where` is the path of that file, for messages.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES

from potluck.errors import ModelError
from potluck.models.config_types import check_converted
from potluck.models.fields import Config, Entries, field, of_bool, of_float, of_uint
from potluck.models.rope import rope, scaling


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


def architecture_of(config: Config) -> str:
    """The class that config.json names, or "" if it names none."""
    names = config.get("architectures") or [""]
    return str(names[0])


def family_of(config: Config) -> Family | None:
    """The family in which llama.cpp runs this model; None if there is none."""
    return FAMILIES.get(architecture_of(config))


def is_tied(config: Config, names: Iterable[str]) -> bool:
    """Whether the head is the embedding. names: the tensors that the files hold."""
    return config.get("tie_word_embeddings") is True or not any(is_head(name) for name in names)


def is_head(name: str) -> bool:
    """Whether this is the matrix that turns a hidden row into logits."""
    return name in ("lm_head.weight", "embed_out.weight")


def sliding_window(config: Config) -> int | None:
    """The number of positions that a layer attends to, if that is fewer than all."""
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return window if isinstance(window, int) and window > 0 else None


def check(where: str, config: Config, family: Family) -> None:
    """Raises ModelError for features of the family's models that llama.cpp, or its GGUF, cannot express."""
    check_converted(where, config)
    if (what := fault(config, family)) is not None:
        raise ModelError(f"{where} asks for {what}, which the llama.cpp engine cannot do: use --engine transformers.")


def fault(config: Config, family: Family) -> str | None:
    """What the model asks for that llama.cpp, or its GGUF, cannot express; None if there is nothing."""
    parameters = rope(config)
    kind = parameters["rope_type"]
    if config.get("hidden_act") not in family.activations:
        return f"the activation {config.get('hidden_act')}"
    if kind not in ("default", "linear", "yarn", "llama3"):
        return f"the rope type {kind}"
    if kind == "llama3" and family is not _LLAMA:
        return f"the rope type llama3 in {architecture_of(config)}"
    if {"attention_factor", "mscale", "mscale_all_dim"} & parameters.keys():
        return "a rope attention factor of its own"
    if family is not _NEOX and parameters.get("partial_rotary_factor", 1.0) != 1.0:
        return "a partial rotary embedding"
    if "sliding_attention" in (config.get("layer_types") or []) and family in (_QWEN2, _QWEN3):
        return "sliding windows"
    return None


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
        "block_count": of_uint(field(where, config, "num_hidden_layers")),
        "context_length": of_uint(field(where, config, "max_position_embeddings")),
        "embedding_length": of_uint(field(where, config, "hidden_size")),
        "feed_forward_length": of_uint(field(where, config, "intermediate_size")),
        "attention.head_count": of_uint(field(where, config, "num_attention_heads")),
        "attention.head_count_kv": of_uint(kv_heads(where, config)),
        "attention.key_length": of_uint(size),
        "attention.value_length": of_uint(size),
        "rope.dimension_count": of_uint(rotary),
        "rope.freq_base": of_float(field(where, rope(config), "rope_theta")),
        "vocab_size": of_uint(field(where, config, "vocab_size")),
        **scaling(where, config),
    }
    if family is _NEOX:
        entries["use_parallel_residual"] = of_bool(config.get("use_parallel_residual", True))
        entries["attention.layer_norm_epsilon"] = of_float(field(where, config, "layer_norm_eps"))
    else:
        entries["attention.layer_norm_rms_epsilon"] = of_float(field(where, config, "rms_norm_eps"))
    return {f"{family.name}.{key}": entry for key, entry in entries.items()}
