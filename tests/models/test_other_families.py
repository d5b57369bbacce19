"""Families that only the transformers engine runs, as transformers saves them: what their spans consist of."""

from typing import Any

import pytest

from potluck.models.huggingface import span_tensors
from potluck.models.sources import open_model
from potluck.models.spans import engines_for
from potluck.types import Span

OTHERS: dict[str, dict[str, Any]] = {
    "Gemma": {"head_dim": 16},
    "Mixtral": {"num_local_experts": 2},
    "GPTBigCode": {},
    "Phi": {},
}


@pytest.mark.parametrize("name", OTHERS)
def test_spans_of_any_causal_model_share_its_tensors_out(tmp_path, name):
    """Families whose names nothing here lists, as transformers saves them."""
    transformers = pytest.importorskip("transformers")
    settings = dict(OTHERS[name])
    config = getattr(transformers, f"{settings.pop('model_type', name)}Config")(
        hidden_size=32, num_attention_heads=2, num_hidden_layers=4, intermediate_size=48, vocab_size=99,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, **settings,
    )  # fmt: skip
    getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(tmp_path / name, max_shard_size="20KB")
    manifest = open_model(tmp_path / name)
    assert engines_for(manifest) == ("transformers",)
    parts = [span_tensors(manifest, span) for span in (Span(0, 1), Span(2, 2), Span(3, 3))]
    assert {tensor.name for part in parts for tensor in part} == {tensor.name for tensor in manifest.tensors}
    assert {tensor.layer for tensor in parts[1]} == {2, None}
    beside = [tensor for tensor in parts[1] if tensor.layer is None]
    assert all(tensor in part for tensor in beside for part in parts)
    assert not {tensor.name.split(".")[-2] for tensor in beside} & {"lm_head", "embed_tokens", "wte"}
    assert ("transformer.wpe.weight" in {tensor.name for tensor in beside}) == (name == "GPTBigCode")
    last = {tensor.name.split(".")[-2] for tensor in parts[2] if tensor.layer is None}
    assert last & {"norm", "ln_f", "final_layernorm"}
    assert last & {"lm_head", "embed_tokens", "wte"}
