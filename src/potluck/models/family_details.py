"""What only one family of llama.cpp asks of config.json: what its GGUF cannot express, and metadata of its own.

Everything here is a pure function of a config as `fields.usual` gives it. `where` is the path of the config.json.
"""

from __future__ import annotations

from potluck.models.fields import Config, Entries, field, head_size, of_bool, of_float, of_uint
from potluck.models.rope import rope


def nothing(_: Config) -> str | None:
    """The fault of a family that has none of its own."""
    return None


def no_more(_where: str, _config: Config) -> Entries:
    """The metadata of a family that has none of its own."""
    return {}


def residual(_: str, config: Config) -> Entries:
    """Whether attention and feed-forward of GPT-NeoX and StableLM read the same rows."""
    default = config.get("model_type") != "stablelm"
    return {"use_parallel_residual": of_bool(config.get("use_parallel_residual", default))}


def experts_fault(config: Config, *, normalised: bool) -> str | None:
    """normalised: whether llama.cpp makes the weights of the chosen experts add up to one."""
    if config.get("decoder_sparse_step", 1) != 1 or config.get("mlp_only_layers"):
        return "layers without experts among those with them"
    if bool(config.get("norm_topk_prob", False)) is not normalised:
        return f"weights of experts that {'do not ' if normalised else ''}add up to one"
    return None


def experts(where: str, config: Config) -> Entries:
    entries = {
        "expert_count": of_uint(field(where, config, "num_experts")),
        "expert_used_count": of_uint(field(where, config, "num_experts_per_tok")),
        "expert_feed_forward_length": of_uint(field(where, config, "moe_intermediate_size")),
    }
    if shared := config.get("shared_expert_intermediate_size"):
        entries["expert_shared_feed_forward_length"] = of_uint(shared)
    return entries


def gemma_fault(config: Config, *, period: int, largest: int) -> str | None:
    """period: every so many layers, one sees all positions. largest: the layers of the one size whose scores llama.cpp
    scales in another way.
    """
    layers, heads = int(config.get("num_hidden_layers") or 0), int(config.get("num_attention_heads") or 1)
    kinds = ["full_attention" if (layer + 1) % period == 0 else "sliding_attention" for layer in range(layers)]
    told = config.get("layer_types") or kinds
    if told != kinds or config.get("sliding_window_pattern", period) != period or not config.get("sliding_window"):
        return "another order of sliding windows"
    head = config.get("head_dim") or 256
    scale = int(config.get("hidden_size") or 0) // heads if layers == largest else head
    if config.get("query_pre_attn_scalar", 256) != scale:
        return "another scale of attention scores"
    return None


def gemma2_fault(config: Config) -> str | None:
    if not config.get("attn_logit_softcapping", 50.0):
        return "attention scores without a cap"
    return gemma_fault(config, period=2, largest=46)


def gemma3_fault(config: Config) -> str | None:
    if config.get("attn_logit_softcapping"):
        return "a cap on attention scores"
    if config.get("use_bidirectional_attention"):
        return "attention in both directions"
    return gemma_fault(config, period=6, largest=62)


def gemma2(_: str, config: Config) -> Entries:
    return {
        "attention.sliding_window": of_uint(config.get("sliding_window") or 4096),
        "attn_logit_softcapping": of_float(config.get("attn_logit_softcapping", 50.0)),
        "final_logit_softcapping": of_float(config.get("final_logit_softcapping", 30.0) or 0.0),
    }


def gemma3(_: str, config: Config) -> Entries:
    sliding = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    entries = {
        "attention.sliding_window": of_uint(config.get("sliding_window") or 4096),
        "rope.freq_base_swa": of_float(sliding.get("rope_theta") or config.get("rope_local_base_freq") or 10_000.0),
    }
    if cap := config.get("final_logit_softcapping"):
        entries["final_logit_softcapping"] = of_float(cap)
    return entries


def phi3(where: str, config: Config) -> Entries:
    trained = rope(config).get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return {
        "rope.scaling.original_context_length": of_uint(trained or field(where, config, "max_position_embeddings")),
        "attention.sliding_window": of_uint(config.get("sliding_window") or 0),
    }


def gpt2_fault(config: Config) -> str | None:
    if not config.get("scale_attn_weights", True) or config.get("scale_attn_by_inverse_layer_idx"):
        return "another scale of attention scores"
    return "cross-attention" if config.get("add_cross_attention") else None


def falcon_fault(config: Config) -> str | None:
    if config.get("alibi"):
        return "ALiBi in place of rotary positions"
    if config.get("bias"):
        return "biases of its matrices"
    if not config.get("parallel_attn", True) and not config.get("new_decoder_architecture"):
        return "attention and feed-forward one after the other"
    width, inner = int(config.get("hidden_size") or 0), config.get("intermediate_size")
    return "a feed-forward part of another width" if inner not in (None, 4 * width) else None


def falcon(_: str, _config: Config) -> Entries:
    return {"tensor_data_layout": (["STRING"], "jploski")}


def stablelm_fault(config: Config) -> str | None:
    heads, width = int(config.get("num_attention_heads") or 1), int(config.get("hidden_size") or 0)
    return "heads that do not fill its rows" if head_size("", config) * heads != width else None
