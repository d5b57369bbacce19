"""Each type that the table calls splittable is: a small random model of it, cut into three, gives the logits of the
whole.
"""

# ruff: noqa: E402 (without PyTorch the imports must not be reached)

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from potluck.engine.base import Segment
from potluck.engine.transformers import TransformersEngine
from potluck.models.causal_classes import SPLITTABLE
from potluck.types import Capacity, Span

LAYERS = 4
VOCABULARY = 131
CAPACITY = Capacity(sessions=2, positions=100, rows=32)

SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_sequence_length"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "num_key_value_heads"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "v_head_dim", "query_pre_attn_scalar", "head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"), 8),
    **{"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sliding_window": 5},
}
"""Sizes under all names that configs have for them."""

WRAPPERS = frozenset(
    [
        *("cohere_compass_text", "dbrx", "dots3_note", "dots3_note_text", "emu3", "fuyu", "gemma3", "gemma4"),
        *(
            "gemma4_text",
            "gemma4_unified",
            "got_ocr2",
            "llama4",
            "longcat_flash",
            "mllama",
            "moshi",
            "moss_transcribe_diarize",
        ),
        *("phi4_multimodal",),
    ]
)
"""The types whose configs have parts, or sizes that depend on each other, so that no small one is made here."""


def small(kind: str) -> Any:
    """A config of this type with the sizes that it knows, and each kind of layer that it has by default."""
    known = CONFIG_MAPPING[kind]
    default = known().to_dict()
    sizes = {name: value for name, value in SMALL.items() if name in {*default, *known.attribute_map}}
    if "kv_lora_rank" in sizes:  # whose heads have two parts
        sizes = {name: size for name, size in sizes.items() if name != "head_dim"} | {"num_key_value_heads": 4}
    if default.get("layer_types"):
        sizes["layer_types"] = (list(dict.fromkeys(default["layer_types"])) * LAYERS)[:LAYERS]
    if default.get("mlp_layer_types"):
        sizes["mlp_layer_types"] = ["dense", *["sparse"] * (LAYERS - 1)]
    return known(**sizes)


@pytest.mark.parametrize("kind", sorted(SPLITTABLE.keys() - WRAPPERS))
def test_a_type_that_is_called_splittable_is(kind: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = small(kind)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 0.1))
    sequence = np.random.default_rng(0).integers(3, VOCABULARY, 20).astype(np.int32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(sequence.astype(np.int64))[None], use_cache=False).logits[0].numpy()
    told, weights = config.to_dict() | {"model_type": kind}, model.state_dict()
    chain = [
        TransformersEngine(told, weights, span=span, capacity=CAPACITY, threads=1, device=torch.device("cpu"))
        for span in (Span(0, 0), Span(1, 2), Span(3, 3))
    ]
    for part in (slice(0, 12), slice(12, 13), slice(13, 20)):
        rows: np.ndarray[Any, Any] = sequence[part]
        for engine in chain:
            [rows] = engine.forward([Segment(0, part.start, rows, engine.span.last, len(rows))])
        np.testing.assert_allclose(rows, expected[part], atol=1e-3 * np.abs(expected).max(), rtol=0)
