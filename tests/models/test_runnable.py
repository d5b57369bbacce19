"""What no engine runs is refused from its config.json, with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.sentences import refused
from kit.tiny_hf import write_safetensors, write_tiny_hf
from potluck.models.causal_classes import OPAQUE, SPLITTABLE, STATEFUL, WHOLE
from potluck.models.rope import rope_limit
from potluck.models.runnable import transformers_fault
from potluck.models.sources import open_model

BLOOM = {"architectures": ["BloomForCausalLM"], "model_type": "bloom", "n_layer": 2, "n_head": 2, "hidden_size": 64}
MPT = {"architectures": ["MPTForCausalLM"], "model_type": "mpt", "n_layers": 2, "n_heads": 2, "d_model": 64}
MAMBA = {"architectures": ["MambaForCausalLM"], "model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 2}
LFM2 = {"architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_hf(tmp_path / "tiny", layers=2, shards=1)


def changed(folder: Path, **settings: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, " (awq)"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, " (gptq)"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, " (fp8)"),
        ({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}}, " (compressed"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, " (bitsandbytes)"),
        ({"quantization_config": {"load_in_8bit": True}}, ", which"),
        ({"compression_config": {"format": "int-quantized"}}, ", which"),
        ({"quantization": {"group_size": 64, "bits": 4}}, ", which"),
    ],
)
def test_weights_that_the_config_calls_quantized(model: Path, settings: dict[str, Any], method: str) -> None:
    said = refused(changed(model, **settings), open_model)
    assert f"the weights are already quantized{method}" in said
    assert "fetch the model's unquantized files, or a GGUF file" in said


@pytest.mark.parametrize(("dtype", "told"), [(np.uint8, "U8"), (np.int32, "I32")])
def test_weights_that_are_quantized_though_the_config_is_silent(model: Path, dtype: Any, told: str) -> None:
    """As older quantizers leave it, whose settings are in a file of their own."""
    names = {"uint8": "U8", "int32": "I32"}
    path, weights = model / "model.safetensors", np.ones((4, 8), dtype)
    head = {
        "model.layers.0.mlp.up_proj.qweight": {
            "dtype": names[str(weights.dtype)],
            "shape": weights.shape,
            "data_offsets": [0, weights.nbytes],
        },
        "model.layers.1.mlp.up_proj.weight": {
            "dtype": "F32",
            "shape": [1],
            "data_offsets": [weights.nbytes, weights.nbytes + 4],
        },
    }
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + weights.tobytes() + bytes(4))
    said = refused(model, open_model)
    assert f"model.safetensors holds model.layers.0.mlp.up_proj.qweight in the type {told}, so its weights" in said


def test_integers_that_are_no_matrix_of_a_layer_are_no_quantization(model: Path) -> None:
    tensors: dict[str, Any] = {"model.layers.0.a": np.ones((2, 2), np.float16), "model.layers.1.a": np.ones(2, "f4")}
    mask = {"model.layers.0.attn.bias": np.ones((1, 1, 4, 4), np.bool_), "position_ids": np.ones((1, 4), np.bool_)}
    write_safetensors(model / "model.safetensors", tensors | mask)
    assert len(open_model(model).tensors) == 3


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (BLOOM, "transformers' models of the type bloom cannot be split, because they have no attention interface"),
        (MPT, "models of the type mpt cannot be split"),
        ({"architectures": ["GPTJForCausalLM"], "model_type": "gptj"}, "models of the type gptj cannot be split"),
        ({"architectures": ["GPTNeoForCausalLM"], "model_type": "gpt_neo"}, "of the type gpt_neo cannot be split"),
        (MAMBA, "models of the type mamba keep other state than keys and values"),
        ({"architectures": ["DiffLlamaForCausalLM"], "model_type": "diffllama"}, "do not work in parts"),
        (
            {"architectures": ["Gemma4ForCausalLM"], "model_type": "gemma4_text", "hidden_size_per_layer_input": 256},
            "every layer reads the tokens",
        ),
        (LFM2, "models of the type lfm2 keep other state than keys and values"),
        ({"architectures": ["SpoonForCausalLM"], "model_type": "spoon"}, "knows no causal language model of the type"),
        (
            {"architectures": ["GemmaForCausalLM"], "model_type": "gemma", "layer_types": ["conv", "full_attention"]},
            "models of the type gemma keep other state",
        ),
    ],
)
def test_classes_that_cannot_be_split(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    """The reason is the true one, though their config.json often lacks what other models have."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert reason in refused(tmp_path, open_model)


def test_a_family_of_llama_cpp_that_neither_engine_can_run_names_both_reasons(model: Path) -> None:
    said = refused(changed(model, model_type="gptj", hidden_act="relu"), open_model)
    assert "asks for the activation relu, which the llama.cpp engine cannot do, and transformers' models" in said


def test_each_type_has_one_kind() -> None:
    kinds = (SPLITTABLE, OPAQUE, WHOLE, STATEFUL)
    assert len(set().union(*kinds)) == sum(map(len, kinds))
    for kind in ("llama", "mistral", "qwen3_moe", "gpt2", "opt", "gpt_bigcode", "gemma3_text", "phi3", "gpt_oss"):
        assert transformers_fault({"model_type": kind}) is None


LONGROPE = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"rope_scaling": LONGROPE, "original_max_position_embeddings": 64}, ("longrope", 64)),
        ({"rope_parameters": LONGROPE | {"original_max_position_embeddings": 128}}, ("longrope", 128)),
        ({"rope_scaling": {"type": "su", "long_factor": [1.0]}}, ("longrope", 512)),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ("dynamic", 512)),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, ("dynamic", 512)),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "original_max_position_embeddings": 64}, None),
        ({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 64}}, None),
        ({}, None),
    ],
)
def test_factors_that_depend_on_the_length_bound_the_context(
    model: Path, config: dict[str, Any], limit: tuple[str, int] | None
) -> None:
    assert rope_limit({"max_position_embeddings": 512} | config) == limit
    assert open_model(changed(model, **config)).context == (limit[1] if limit else 512)
