"""What models of each family may ask for that llama.cpp cannot do, and the metadata of real ones."""

from __future__ import annotations

from typing import Any

import pytest

from potluck.errors import ModelError
from potluck.models import families
from potluck.models.families import FAMILIES
from potluck.models.text_part import text_part

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 6, "hidden_act": "silu"}
EXPERTS = SIZES | {"num_experts": 8}
GEMMA = SIZES | {"hidden_activation": "gelu_pytorch_tanh", "head_dim": 32, "query_pre_attn_scalar": 32}
GEMMA |= {"sliding_window": 16}
OLD = {"n_embd": 64, "n_head": 4, "n_layer": 6, "activation_function": "gelu_new"}
FALCON = SIZES | {"model_type": "falcon", "hidden_act": "gelu", "parallel_attn": True}

FAULTS: list[tuple[str, dict[str, Any], str | None]] = [
    ("Qwen2MoeForCausalLM", EXPERTS, None),
    ("Qwen2MoeForCausalLM", EXPERTS | {"norm_topk_prob": True}, "weights of experts that add up to one"),
    ("Qwen2MoeForCausalLM", EXPERTS | {"layer_types": ["sliding_attention"]}, "sliding windows"),
    ("Qwen3MoeForCausalLM", EXPERTS, "weights of experts that do not add up to one"),
    ("Qwen3MoeForCausalLM", EXPERTS | {"norm_topk_prob": True}, None),
    ("Qwen3MoeForCausalLM", EXPERTS | {"mlp_only_layers": [0]}, "layers without experts among"),
    ("Qwen3MoeForCausalLM", EXPERTS | {"decoder_sparse_step": 2}, "layers without experts among"),
    ("Gemma2ForCausalLM", GEMMA, None),
    ("Gemma2ForCausalLM", GEMMA | {"attn_logit_softcapping": None}, "attention scores without a cap"),
    ("Gemma2ForCausalLM", GEMMA | {"query_pre_attn_scalar": 64}, "another scale of attention scores"),
    ("Gemma2ForCausalLM", GEMMA | {"layer_types": ["full_attention"] * 6}, "another order of sliding windows"),
    ("Gemma2ForCausalLM", GEMMA | {"tie_word_embeddings": False}, "a head of its own"),
    ("Gemma3ForCausalLM", GEMMA | {"layer_types": ["sliding_attention"] * 5 + ["full_attention"]}, None),
    ("Gemma3ForCausalLM", GEMMA | {"sliding_window_pattern": 4}, "another order of sliding windows"),
    ("Gemma3ForCausalLM", GEMMA | {"attn_logit_softcapping": 50.0}, "a cap on attention scores"),
    ("Gemma3ForCausalLM", GEMMA | {"use_bidirectional_attention": True}, "attention in both directions"),
    ("Phi3ForCausalLM", SIZES | {"partial_rotary_factor": 0.75}, None),
    ("Phi3ForCausalLM", SIZES | {"rope_scaling": {"type": "longrope"}}, "the rope type longrope"),
    ("Phi3ForCausalLM", SIZES | {"rope_scaling": {"type": "yarn", "long_factor": [1.0]}}, "the rope type yarn"),
    ("GPT2LMHeadModel", OLD, None),
    ("GPT2LMHeadModel", OLD | {"scale_attn_by_inverse_layer_idx": True}, "another scale of attention scores"),
    ("GPT2LMHeadModel", OLD | {"scale_attn_weights": False}, "another scale of attention scores"),
    ("GPT2LMHeadModel", OLD | {"add_cross_attention": True}, "cross-attention"),
    ("GPT2LMHeadModel", OLD | {"activation_function": "relu"}, "the activation relu"),
    ("FalconForCausalLM", FALCON, None),
    ("FalconForCausalLM", FALCON | {"alibi": True}, "ALiBi in place of rotary positions"),
    ("FalconForCausalLM", FALCON | {"bias": True}, "biases of its matrices"),
    ("FalconForCausalLM", FALCON | {"parallel_attn": False}, "one after the other"),
    ("FalconForCausalLM", FALCON | {"ffn_hidden_size": 100}, "a feed-forward part of another width"),
    ("StableLmForCausalLM", SIZES | {"partial_rotary_factor": 0.25}, None),
    ("StableLmForCausalLM", SIZES | {"head_dim": 32}, "heads that do not fill its rows"),
]


@pytest.mark.parametrize(("name", "config", "fault"), FAULTS)
def test_what_a_family_cannot_do_is_said(name: str, config: dict[str, Any], fault: str | None) -> None:
    found = families.fault({"architectures": [name]} | config, FAMILIES[name])
    assert found is None if fault is None else fault in (found or "")


REST = {"rms_norm_eps": 1e-6, "layer_norm_epsilon": 1e-5, "vocab_size": 100, "max_position_embeddings": 512}
REST |= {"intermediate_size": 256}


def metadata(name: str, config: dict[str, Any]) -> dict[str, Any]:
    family = FAMILIES[name]
    entries = families.metadata("config.json", {"architectures": [name]} | config, family)
    return {key.removeprefix(f"{family.name}."): value for key, (_, value) in entries.items()}


def test_falcon_says_neither_its_context_nor_its_heads_as_others_do() -> None:
    told = FALCON | {"layer_norm_epsilon": 1e-5, "vocab_size": 100, "num_kv_heads": 4}
    old, new = (
        metadata("FalconForCausalLM", told),
        metadata("FalconForCausalLM", told | {"new_decoder_architecture": True}),
    )
    assert (old["context_length"], old["feed_forward_length"], old["tensor_data_layout"]) == (2048, 256, "jploski")
    assert (old["attention.head_count_kv"], new["attention.head_count_kv"]) == (1, 4)
    many = metadata("FalconForCausalLM", told | {"multi_query": False})
    assert many["attention.head_count_kv"] == 4


def test_gpt_2_says_everything_under_names_of_its_own() -> None:
    told = OLD | {"n_positions": 128, "layer_norm_epsilon": 1e-5, "vocab_size": 100, "n_inner": None}
    found = metadata("GPT2LMHeadModel", told)
    assert (found["block_count"], found["context_length"], found["embedding_length"]) == (6, 128, 64)
    assert (found["feed_forward_length"], found["attention.head_count_kv"]) == (256, 4)
    assert found["attention.layer_norm_epsilon"] == pytest.approx(1e-5)


def test_gemma_3_leaves_out_most_of_its_text_part() -> None:
    """As its own files have it, for 4 and for 27 billion weights."""
    small = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    large = {"hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 62, "head_dim": 128}
    large |= {"num_attention_heads": 32, "num_key_value_heads": 16, "query_pre_attn_scalar": 168}
    rest = {"model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
    for inner, heads, size in ((small, (8, 4), 256), (large, (32, 16), 128)):
        config = text_part("config.json", {"text_config": inner | rest})
        found = metadata("Gemma3ForCausalLM", config)
        assert (found["attention.head_count"], found["attention.head_count_kv"]) == heads
        assert found["attention.key_length"] == size
        assert (found["rope.freq_base"], found["rope.freq_base_swa"]) == (1e6, 1e4)
        assert (found["rope.scaling.type"], found["rope.scaling.factor"]) == ("linear", 8)
        assert (found["attention.sliding_window"], found["context_length"]) == (1024, 131072)


def test_gemma_3_may_say_its_ropes_by_kinds_of_layers() -> None:
    ropes = {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    found = metadata("Gemma3ForCausalLM", GEMMA | REST | {"rope_parameters": ropes})
    assert (found["rope.freq_base"], found["rope.freq_base_swa"], found["rope.scaling.factor"]) == (5e5, 2e4, 4)


def test_experts_are_counted() -> None:
    told = (
        EXPERTS | REST | {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48}
    )
    found = metadata("Qwen2MoeForCausalLM", told)
    assert (found["expert_count"], found["expert_used_count"]) == (8, 2)
    assert (found["expert_feed_forward_length"], found["expert_shared_feed_forward_length"]) == (32, 48)
    with pytest.raises(ModelError, match="has no num_experts_per_tok; it is not a complete model"):
        metadata("Qwen2MoeForCausalLM", EXPERTS | REST)
