"""The bytes of a model's parts: what is held, what is read for a token, and what loading takes."""

from __future__ import annotations

import pytest

from kit.tiny_architectures import LAYERS, write_tiny
from kit.tiny_gguf import write_tiny_gguf
from potluck.coordinator.model_choice import footprint
from potluck.models.sizes import part_sizes
from potluck.models.sources import open_model
from potluck.types import Attention, EngineKind, Quantize, RowFormat

EXPERTS = {"expert_count": 4, "expert_used_count": 1, "expert_feed_forward_length": 32}
LLAMACPP = EngineKind.LLAMACPP, Quantize.NONE


def test_of_experts_a_token_reads_those_that_it_uses(tmp_path):
    manifest = open_model(write_tiny(tmp_path / "tiny.gguf", "qwen3moe", EXPERTS))
    experts = [tensor.nbytes for tensor in manifest.tensors if tensor.layer == 0 and "_exps" in tensor.name]
    sizes = part_sizes(manifest, *LLAMACPP)
    assert len(experts) == 3
    assert sizes.layers == tuple(manifest.layer_bytes())
    assert sizes.active == tuple(size - sum(experts) * 3 // 4 for size in sizes.layers)
    assert sizes.staged == max(tensor.nbytes for tensor in manifest.tensors if tensor.layer is not None)


def test_without_experts_a_token_reads_everything(tmp_path):
    manifest = open_model(write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=2))
    sizes = part_sizes(manifest, *LLAMACPP)
    assert sizes.active == sizes.layers


@pytest.mark.parametrize("used", [0, -1, "2", 9, 4])
def test_a_count_of_used_experts_that_cannot_be_is_taken_for_all(tmp_path, used):
    manifest = open_model(write_tiny(tmp_path / "tiny.gguf", "qwen3moe", EXPERTS))
    manifest.metadata["qwen3moe.expert_used_count"] = [["UINT32"], used]
    sizes = part_sizes(manifest, *LLAMACPP)
    assert sizes.active == sizes.layers


def test_a_footprint_has_what_each_layer_keeps_and_reads(tmp_path):
    uneven = {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 128,
        "ssm.state_size": 16,
        "ssm.time_step_rank": 4,
        "ssm.group_count": 2,
        "attention.head_count_kv": [0, 0, 0, 2] * 2,
    }
    manifest = open_model(write_tiny(tmp_path / "tiny.gguf", "granitehybrid", uneven))
    sizes = footprint(manifest, *LLAMACPP, context=100)
    parts = part_sizes(manifest, *LLAMACPP)
    assert len(sizes.layers) == LAYERS
    assert sizes.cache[3] == 100 * 136
    assert sizes.cache[0] == sizes.cache[1] != sizes.cache[3]
    assert (sizes.active, sizes.staged) == (parts.active, parts.staged)
    fast = footprint(manifest, *LLAMACPP, 100, RowFormat.F32, Attention.FAST)
    assert fast.cache[3] == 100 * 256
    assert fast.cache[0] == sizes.cache[0]
