"""What layers keep, reckoned and as llama.cpp allocates it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kit.tiny_architectures import LAYERS, write_tiny
from kit.tiny_gguf import write_tiny_gguf
from kit.tiny_hf import write_tiny_hf
from potluck.engine import llamacpp
from potluck.errors import ModelError
from potluck.llama.layouts import LogCallback
from potluck.llama.library import load
from potluck.models.architectures import Metadata
from potluck.models.kept import Kept, kept
from potluck.models.sizes import kept_by
from potluck.models.sources import open_model
from potluck.types import Attention, Capacity, EngineKind, Span

POSITIONS, SESSIONS = 1 << 14, 64

EXPERTS: dict[str, Any] = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
DEEPSEEK: dict[str, Any] = EXPERTS | {
    "attention.head_count_kv": 1,
    "attention.key_length": 64,
    "attention.value_length": 32,
    "attention.key_length_mla": 64,
    "attention.value_length_mla": 32,
    "attention.kv_lora_rank": 32,
    "attention.q_lora_rank": 32,
    "rope.dimension_count": 32,
    "leading_dense_block_count": 2,
    "expert_shared_count": 1,
    "expert_weights_scale": 1.0,
    "expert_gating_func": 2,
}
INDEXER = {"attention.indexer.head_count": 2, "attention.indexer.key_length": 64, "attention.indexer.top_k": 8}
STATES: dict[str, Any] = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 128,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
}
UNGROUPED: dict[str, Any] = STATES | {"ssm.time_step_rank": 8, "ssm.group_count": None}

CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "phi2": {
        "embedding_length": 80,
        "attention.head_count_kv": 4,
        "attention.key_length": 20,
        "attention.value_length": 20,
        "rope.dimension_count": 20,
    },
    "openelm": {
        "attention.head_count": [2, 4] * 4,
        "attention.head_count_kv": [1, 2] * 4,
        "feed_forward_length": [96, 64] * 4,
    },
    "qwen3moe": EXPERTS,
    "gpt-oss": EXPERTS | {"attention.sliding_window": 16},
    "gemma3": {"attention.sliding_window": 16},
    "deepseek2": DEEPSEEK,
    "deepseek32": DEEPSEEK | INDEXER,
    "mamba": UNGROUPED,
    "mamba2": STATES,
    "falcon-h1": STATES,
    "jamba": UNGROUPED
    | EXPERTS
    | {"embedding_length": 128, "ssm.inner_size": 256, "attention.head_count_kv": [0, 0, 0, 2] * 2},
    "granitehybrid": STATES | {"attention.head_count_kv": [0, 0, 0, 2] * 2},
    "plamo2": STATES | {"ssm.group_count": 0, "attention.head_count_kv": [0, 2] * 4},
    "nemotron_h": STATES | {"attention.head_count_kv": [0, 2, 0, 0] * 2, "feed_forward_length": [0, 0, 96, 0] * 2},
    "lfm2": {"embedding_length": 128, "shortconv.l_cache": 3, "attention.head_count_kv": [0, 2] * 4},
    "qwen3next": STATES
    | EXPERTS
    | {"expert_shared_feed_forward_length": 32, "ssm.inner_size": 64, "rope.dimension_count": 8},
}


def allocated(path: Path, attention: Attention) -> tuple[int, str]:
    """The bytes that llama.cpp allocates for each position, and its MiB for all states, as it logs them."""
    lines: list[str] = []
    callback = LogCallback(lambda _level, text, _data: lines.append(text.decode("utf-8", "replace")))
    load().log_to(callback)
    layers = open_model(path).layers
    engine = llamacpp.LlamaCppEngine(
        path,
        span=Span(0, layers - 1),
        layers=layers,
        attention=attention,
        capacity=Capacity(SESSIONS, POSITIONS, 64),
        threads=1,
    )
    engine.unload()
    load().log_to()
    told = "".join(lines)
    cells = re.findall(r"KV buffer size = +([\d.]+) MiB", told)
    states = re.findall(r"RS buffer size = +([\d.]+) MiB", told)
    # One byte of a cell is 1/64 MiB here, which the log's two digits tell apart.
    return sum(round(float(one) * (1 << 20) / POSITIONS) for one in cells), "".join(states)


def check(path: Path, attention: Attention) -> tuple[Kept, ...]:
    layers = kept_by(open_model(path), EngineKind.LLAMACPP, attention)
    cells, states = allocated(path, attention)
    assert sum(layer.cell for layer in layers) == cells
    total = SESSIONS * sum(layer.state for layer in layers)
    assert (f"{total / (1 << 20):.2f}" if total else "") == states
    return layers


@pytest.mark.parametrize("architecture", CASES)
def test_layers_keep_what_llama_cpp_allocates(architecture, tmp_path):
    path = write_tiny(tmp_path / "tiny.gguf", architecture, CASES[architecture])
    assert len(check(path, Attention.EXACT)) == LAYERS


def test_a_fast_cache_takes_two_bytes_a_value(tmp_path):
    path = write_tiny(tmp_path / "tiny.gguf", "llama", {})
    assert check(path, Attention.FAST) == (Kept(2 * 2 * 32 * 2),) * LAYERS


def test_a_layer_keeps_cells_or_a_state(tmp_path):
    path = write_tiny(tmp_path / "tiny.gguf", "granitehybrid", CASES["granitehybrid"])
    state = 4 * (3 * (128 + 2 * 2 * 16) + 128 * 16)
    assert (
        kept_by(open_model(path), EngineKind.LLAMACPP, Attention.EXACT)
        == (
            *(Kept(0, state),) * 3,
            Kept(2 * 2 * 34),
        )
        * 2
    )


def test_the_transformers_engine_keeps_floats(tmp_path):
    manifest = open_model(write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=2))
    assert kept_by(manifest, EngineKind.TRANSFORMERS, Attention.EXACT) == (Kept(4 * manifest.kv_width),) * 2


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "qwen3"])
def test_a_hugging_face_model_keeps_what_its_conversion_says(tmp_path, family):
    manifest = open_model(write_tiny_hf(tmp_path / "tiny", family, layers=3))
    cell = manifest.kv_width // 32 * 34
    assert kept_by(manifest, EngineKind.LLAMACPP, Attention.EXACT) == (Kept(cell),) * 3


def metadata(architecture: str, **values: Any) -> Metadata:
    usual = {"embedding_length": 128, "attention.head_count": 4}
    given = usual | {name.replace("__", "."): value for name, value in values.items()}
    return Metadata(architecture, {f"{architecture}.{key}": ([], value) for key, value in given.items()}, 2, 100)


def test_layers_with_windows_may_have_heads_of_another_size():
    sizes = {"attention__key_length": 64, "attention__value_length": 64, "attention__key_length_swa": 32}
    assert kept(metadata("gemma4", **sizes, attention__sliding_window_pattern=[True, False])) == (
        Kept(4 * (32 + 64) // 32 * 34),
        Kept(4 * (64 + 64) // 32 * 34),
    )
    assert kept(metadata("gemma4", **sizes)) == (Kept(4 * (64 + 64) // 32 * 34),) * 2  # who knows which they are


def test_an_unknown_architecture_may_keep_all_that_its_file_names():
    cell, state = 2 * 128 // 32 * 34, 4 * 128 * 2
    assert kept(metadata("unheard-of", shortconv__l_cache=3)) == (Kept(cell, state),) * 2


@pytest.mark.parametrize("wrong", ["3", -1, 2.5, [1, 2]])
def test_a_number_that_is_none_is_refused(wrong):
    with pytest.raises(ModelError, match=r"as its mamba\.ssm\.state_size, which is not a number"):
        kept(metadata("mamba", ssm__state_size=wrong))
