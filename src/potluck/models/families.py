"""The Hugging Face families that llama.cpp can run: what config.json becomes in GGUF, and which tensors must exist.

Everything here is a pure function of config.json. `where` is the path of that file, for messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES

from potluck.errors import ModelError
from potluck.models import family_details as details
from potluck.models.config_types import check_converted
from potluck.models.fields import Config, Entries, field, head_size, kv_heads, of_float, of_uint, usual
from potluck.models.rope import rope, scaling


@dataclass(frozen=True)
class Family:
    """One architecture of llama.cpp.

    activations: the values of `hidden_act` that it computes.
    layer: the names, within a layer, of the tensors that llama.cpp requires.
    ends: the same outside the layers. Head and embedding may be one tensor: see `is_tied`.
    epsilon: the key of the norms' epsilon. rotary: the share of a head that is rotated if config.json does not say it;
    None if it is always the whole head. windows: whether it attends to sliding windows, or else to all positions.
    fault: what else it cannot express. more: what else its metadata have.
    """

    arch: MODEL_ARCH
    activations: frozenset[str]
    layer: frozenset[str]
    ends: frozenset[str]
    epsilon: str = "rms_norm_eps"
    rotary: float | None = None
    windows: bool = False
    fault: Callable[[Config], str | None] = details.nothing
    more: Callable[[str, Config], Entries] = details.no_more

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
_ATTENTION = "attn_norm attn_q attn_k attn_v attn_output"
_GATED = f"{_ATTENTION} ffn_norm ffn_gate ffn_up ffn_down"
_EXPERTS = f"{_ATTENTION} ffn_norm ffn_gate_inp ffn_gate_exps ffn_up_exps ffn_down_exps"
_SHARED = "ffn_gate_inp_shexp ffn_gate_shexp ffn_up_shexp ffn_down_shexp"
_QKV = "attn_norm attn_qkv attn_output ffn_norm ffn_up ffn_down"
_ENDS = _names("token_embd output_norm")
_LAYER_NORM_ENDS = _names("token_embd", both="output_norm")

_NEOX = Family(
    MODEL_ARCH.GPTNEOX,
    _GELU,
    _names("", both=_QKV),
    _LAYER_NORM_ENDS,
    epsilon="layer_norm_eps",
    rotary=0.25,
    more=details.residual,
)
_LLAMA = Family(MODEL_ARCH.LLAMA, _SILU, _names(_GATED), _ENDS)
_QWEN2 = Family(MODEL_ARCH.QWEN2, _SILU, _names(_GATED, biases="attn_q attn_k attn_v"), _ENDS)
_QWEN3 = Family(MODEL_ARCH.QWEN3, _SILU, _names(_GATED + " attn_q_norm attn_k_norm"), _ENDS)
_QWEN2_MOE = Family(
    MODEL_ARCH.QWEN2MOE,
    _SILU,
    _names(f"{_EXPERTS} {_SHARED}"),
    _ENDS,
    fault=partial(details.experts_fault, normalised=False),
    more=details.experts,
)
_QWEN3_MOE = Family(
    MODEL_ARCH.QWEN3MOE,
    _SILU,
    _names(f"{_EXPERTS} attn_q_norm attn_k_norm"),
    _ENDS,
    fault=partial(details.experts_fault, normalised=True),
    more=details.experts,
)
_GEMMA2 = Family(
    MODEL_ARCH.GEMMA2,
    _GELU,
    _names(f"{_GATED} post_attention_norm post_ffw_norm"),
    _ENDS,
    windows=True,
    fault=details.gemma2_fault,
    more=details.gemma2,
)
_GEMMA3 = Family(
    MODEL_ARCH.GEMMA3,
    _GELU,
    _names(f"{_GATED} post_attention_norm post_ffw_norm attn_q_norm attn_k_norm"),
    _ENDS,
    windows=True,
    fault=details.gemma3_fault,
    more=details.gemma3,
)
_PHI3 = Family(MODEL_ARCH.PHI3, _SILU, _names(_QKV), _ENDS, rotary=1.0, more=details.phi3)
_GPT2 = Family(
    MODEL_ARCH.GPT2,
    _GELU,
    _names("", both=_QKV),
    _LAYER_NORM_ENDS | {"position_embd.weight"},
    epsilon="layer_norm_eps",
    fault=details.gpt2_fault,
)
_FALCON = Family(
    MODEL_ARCH.FALCON,
    _GELU,
    _names("attn_qkv attn_output ffn_up ffn_down", both="attn_norm"),
    _LAYER_NORM_ENDS,
    epsilon="layer_norm_eps",
    fault=details.falcon_fault,
    more=details.falcon,
)
_STABLELM = Family(
    MODEL_ARCH.STABLELM,
    _SILU,
    _names("attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down", both="attn_norm"),
    _LAYER_NORM_ENDS,
    epsilon="layer_norm_eps",
    rotary=0.25,
    fault=details.stablelm_fault,
    more=details.residual,
)

FAMILIES = {
    "FalconForCausalLM": _FALCON,
    "GPT2LMHeadModel": _GPT2,
    "GPTNeoXForCausalLM": _NEOX,
    "Gemma2ForCausalLM": _GEMMA2,
    "Gemma3ForCausalLM": _GEMMA3,
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Phi3ForCausalLM": _PHI3,
    "Qwen2ForCausalLM": _QWEN2,
    "Qwen2MoeForCausalLM": _QWEN2_MOE,
    "Qwen3ForCausalLM": _QWEN3,
    "Qwen3MoeForCausalLM": _QWEN3_MOE,
    "StableLmForCausalLM": _STABLELM,
}
"""The families by the first of the `architectures` in config.json."""

WITH_A_HEAD = frozenset({MODEL_ARCH.GPTNEOX, MODEL_ARCH.STABLELM, MODEL_ARCH.QWEN2MOE})
"""The architectures that want a head of their own even if it is the embedding."""
WITHOUT_A_HEAD = frozenset({MODEL_ARCH.GEMMA2, MODEL_ARCH.GEMMA3})
"""The architectures whose head is always the embedding, though some files hold a copy."""


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
    """What the model asks for that llama.cpp, or its GGUF, cannot express; None if there is nothing.

    The config is one that `check_converted` lets pass.
    """
    config = usual(config)
    parameters = rope(config)
    kind = parameters["rope_type"]
    if config.get("hidden_act") not in family.activations:
        return f"the activation {config.get('hidden_act')}"
    if kind not in ("default", "linear", "yarn", "llama3") or "long_factor" in parameters:
        return f"the rope type {kind}"
    if kind == "llama3" and family is not _LLAMA:
        return f"the rope type llama3 in {architecture_of(config)}"
    if {"attention_factor", "mscale", "mscale_all_dim"} & parameters.keys():
        return "a rope attention factor of its own"
    if family.rotary is None and parameters.get("partial_rotary_factor", 1.0) != 1.0:
        return "a partial rotary embedding"
    bounded = family.windows or family in (_LLAMA, _PHI3)  # whose context is no longer than a window
    if "sliding_attention" in (config.get("layer_types") or []) and not bounded:
        return "sliding windows"
    if family.arch in WITHOUT_A_HEAD and config.get("tie_word_embeddings") is False:
        return "a head of its own"
    return family.fault(config)


def metadata(where: str, config: Config, family: Family) -> Entries:
    """The GGUF metadata of the whole model, without tokenizer. Raises ModelError when config.json lacks something."""
    check(where, config, family)
    config = usual(config)
    size, width = head_size(where, config), field(where, config, "hidden_size")
    rotary = size if family.rotary is None else int(size * rope(config).get("partial_rotary_factor", family.rotary))
    inner = config.get("intermediate_size")
    if inner is None and family.arch in (MODEL_ARCH.GPT2, MODEL_ARCH.FALCON):
        inner = 4 * width
    epsilon = "rms_epsilon" if family.epsilon == "rms_norm_eps" else "epsilon"
    entries: Entries = {
        "block_count": of_uint(field(where, config, "num_hidden_layers")),
        "context_length": of_uint(field(where, config, "max_position_embeddings")),
        "embedding_length": of_uint(width),
        "feed_forward_length": of_uint(field(where, config | {"intermediate_size": inner}, "intermediate_size")),
        "attention.head_count": of_uint(field(where, config, "num_attention_heads")),
        "attention.head_count_kv": of_uint(kv_heads(where, config)),
        "attention.key_length": of_uint(size),
        "attention.value_length": of_uint(size),
        f"attention.layer_norm_{epsilon}": of_float(field(where, config, family.epsilon)),
        "rope.dimension_count": of_uint(rotary),
        "rope.freq_base": of_float(field(where, rope(config), "rope_theta")),
        "vocab_size": of_uint(field(where, config, "vocab_size")),
        **scaling(where, config),
        **family.more(where, config),
    }
    return {f"{family.name}.{key}": entry for key, entry in entries.items()}
