"""The bytes of a model's parts: what is held, what is read for a token, and what loading takes."""

from __future__ import annotations

import pytest
from gguf import GGMLQuantizationType
from msgspec import structs

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
    read = [size - sum(experts) * 3 // 4 for size in sizes.layers]
    assert sizes.active[:-1] == pytest.approx(read, rel=0.01)  # its matrices are of one type
    assert sizes.staged == max(tensor.nbytes for tensor in manifest.tensors if tensor.layer is not None)


def test_without_experts_a_token_reads_everything(tmp_path):
    manifest = open_model(write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=2))
    sizes = part_sizes(manifest, *LLAMACPP)
    assert sum(sizes.active) == pytest.approx(sum(sizes.layers) + sizes.head, abs=len(sizes.active))
    assert sizes.active[:-1] == pytest.approx(sizes.layers, rel=0.01)


@pytest.mark.parametrize("tied", [False, True])
def test_the_head_is_as_much_work_as_its_weights_are_many_whatever_their_type(tmp_path, tied):
    wide = GGMLQuantizationType.F16
    shape = {"layers": 2, "hidden": 64, "heads": 2, "feed_forward": 128, "vocabulary": 500, "tied": tied}
    manifest = open_model(write_tiny_gguf(tmp_path / "tiny.gguf", "llama", dtype=wide, **shape))
    thin = {name: "Q4_0" for name in (tensor.name for tensor in manifest.tensors) if name.endswith("ffn_up.weight")}
    halved = [
        structs.replace(tensor, dtype="Q4_0", nbytes=tensor.nbytes * 18 // 64) if tensor.name in thin else tensor
        for tensor in manifest.tensors
    ]
    for each in (manifest, structs.replace(manifest, tensors=tuple(halved))):
        sizes = part_sizes(each, *LLAMACPP)
        layer = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
        assert sizes.active[-1] / sizes.active[0] == pytest.approx((500 * 64 + 64) / layer, rel=1e-3)
        assert sum(sizes.active) == pytest.approx(sum(sizes.layers) + sizes.head, abs=64)


@pytest.mark.parametrize("used", [0, -1, "2", 9, 4])
def test_a_count_of_used_experts_that_cannot_be_is_taken_for_all(tmp_path, used):
    manifest = open_model(write_tiny(tmp_path / "tiny.gguf", "qwen3moe", EXPERTS))
    manifest.metadata["qwen3moe.expert_used_count"] = [["UINT32"], used]
    sizes = part_sizes(manifest, *LLAMACPP)
    assert sum(sizes.active) == pytest.approx(sum(sizes.layers) + sizes.head, abs=len(sizes.active))


def test_a_model_of_empty_tensors_takes_some_time(tmp_path):
    manifest = open_model(write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=2))
    empty = [structs.replace(tensor, shape=(*tensor.shape[:-1], 0), nbytes=0) for tensor in manifest.tensors]
    sizes = part_sizes(structs.replace(manifest, tensors=tuple(empty)), *LLAMACPP)
    assert sizes.active == (1, 1, 1)


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
