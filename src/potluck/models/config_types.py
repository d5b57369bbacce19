"""The types and bounds of what is read from a config.json, which a stranger may have written.

Keys that are not named here are for the transformers library.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from potluck.errors import ModelError

_Count = Annotated[int, Meta(ge=1, le=1 << 30)] | None
_Factor = Annotated[float, Meta(ge=1e-15, le=1e15)] | None
_Text = Annotated[str, Meta(max_length=256)] | None


class _Model(Struct):
    """What is read for every model."""

    architectures: list[str] | None = None
    model_type: _Text = None
    num_hidden_layers: _Count = None
    n_layer: _Count = None
    num_layers: _Count = None
    hidden_size: _Count = None
    n_embd: _Count = None
    d_model: _Count = None
    vocab_size: _Count = None
    max_position_embeddings: _Count = None
    n_positions: _Count = None
    n_ctx: _Count = None
    max_seq_len: _Count = None
    num_attention_heads: _Count = None
    n_head: _Count = None
    num_heads: _Count = None
    num_key_value_heads: _Count = None
    num_kv_heads: _Count = None
    n_head_kv: _Count = None
    multi_query: bool | None = None
    new_decoder_architecture: bool | None = None
    head_dim: _Count = None
    qk_nope_head_dim: _Count = None
    qk_rope_head_dim: _Count = None
    v_head_dim: _Count = None
    layer_types: list[Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    original_max_position_embeddings: _Count = None


class _Rope(Struct):
    full_attention: _Rope | None = None
    sliding_attention: _Rope | None = None
    type: _Text = None
    rope_type: _Text = None
    rope_theta: _Factor = None
    partial_rotary_factor: _Factor = None
    factor: _Factor = None
    low_freq_factor: _Factor = None
    high_freq_factor: _Factor = None
    original_max_position_embeddings: _Count = None
    beta_fast: _Factor = None
    beta_slow: _Factor = None


class _Converted(Struct):
    """What else is read for models that llama.cpp runs."""

    intermediate_size: _Count = None
    n_inner: _Count = None
    ffn_hidden_size: _Count = None
    num_experts: _Count = None
    num_local_experts: _Count = None
    num_experts_per_tok: _Count = None
    moe_intermediate_size: _Count = None
    shared_expert_intermediate_size: _Count = None
    sliding_window: Annotated[int, Meta(ge=0, le=1 << 30)] | None = None
    use_sliding_window: bool | None = None
    hidden_act: _Text = None
    hidden_activation: _Text = None
    activation_function: _Text = None
    activation: _Text = None
    attn_logit_softcapping: _Factor = None
    final_logit_softcapping: _Factor = None
    query_pre_attn_scalar: _Factor = None
    rope_local_base_freq: _Factor = None
    layer_types: list[str] | None = None
    rope_scaling: _Rope | None = None
    rope_parameters: _Rope | None = None
    rope_theta: _Factor = None
    rotary_emb_base: _Factor = None
    partial_rotary_factor: _Factor = None
    rotary_pct: _Factor = None
    rope_pct: _Factor = None
    layer_norm_eps: _Factor = None
    layer_norm_epsilon: _Factor = None
    norm_eps: _Factor = None
    rms_norm_eps: _Factor = None


def check_model(where: str, config: dict[str, Any]) -> None:
    """Raises ModelError when a value that every model has is of the wrong type or out of bounds."""
    _check(where, config, _Model)


def check_converted(where: str, config: dict[str, Any]) -> None:
    """The same for the values that llama.cpp gets."""
    _check(where, config, _Converted)


def _check(where: str, config: dict[str, Any], kind: type[Struct]) -> None:
    try:
        msgspec.convert(config, kind)
    except msgspec.ValidationError as error:
        raise ModelError(f"{where} is broken ({error}); fetch it again.") from error
