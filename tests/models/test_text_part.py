"""The text part of a model that also sees is the model that it would be by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.sentences import refused
from kit.tiny_hf import write_safetensors, write_tiny_hf
from potluck.models.arrays import read_array
from potluck.models.sources import LocalSource, open_model
from potluck.models.text_part import text_name, text_part

LAYOUTS = {
    "old": ("language_model.model.", "language_model.lm_head.weight", "vision_tower.layers.0.weight"),
    "new": ("model.language_model.", "lm_head.weight", "model.vision_tower.layers.0.weight"),
    "plain": ("model.", "lm_head.weight", "model.vision_tower.layers.0.weight"),
}


def wrap(text: Path, folder: Path, layout: str, **outer: Any) -> Path:
    """The model of a directory as the text part of another one, which also sees."""
    prefix, head, picture = LAYOUTS[layout]
    manifest = open_model(text)
    tensors = {
        head if tensor.name == "lm_head.weight" else prefix + tensor.name.removeprefix("model."): read_array(
            tensor, LocalSource(text)
        )
        for tensor in manifest.tensors
    }
    folder.mkdir()
    beside = {picture: np.ones((2, 2), np.float32), "multi_modal_projector.weight": np.ones(2, np.float32)}
    write_safetensors(folder / "model.safetensors", tensors | beside)
    inner = json.loads((text / "config.json").read_text())
    del inner["architectures"]
    config = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": inner}
    (folder / "config.json").write_text(json.dumps(config | {"vision_config": {"hidden_size": 8}} | outer))
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_wrapper_is_its_text_part(tmp_path: Path, layout: str) -> None:
    text = write_tiny_hf(tmp_path / "text", "mistral", head_dim=32)
    alone, within = open_model(text), open_model(wrap(text, tmp_path / "whole", layout))
    assert within.geometry == alone.geometry
    assert {(t.name, t.shape, t.sha256, t.layer) for t in within.tensors} == {
        (t.name, t.shape, t.sha256, t.layer) for t in alone.tensors
    }
    assert within.architecture == "mistral"
    assert within.metadata["config"]["architectures"] == ["MistralForCausalLM"]


def test_what_the_wrapper_says_of_the_whole_holds_for_the_text(tmp_path: Path) -> None:
    text = write_tiny_hf(tmp_path / "text")
    config = open_model(wrap(text, tmp_path / "a", "old", torch_dtype="bfloat16", eos_token_id=7)).metadata["config"]
    assert (config["torch_dtype"], config["eos_token_id"], "vision_config" in config) == ("bfloat16", 7, False)
    quantized = wrap(text, tmp_path / "b", "old", quantization_config={"quant_method": "fp8"})
    assert "the weights are already quantized (fp8)" in refused(quantized, open_model)


def test_what_the_text_part_leaves_out_is_the_default_of_its_class() -> None:
    """As Gemma 3's own files leave it out."""
    inner = {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "intermediate_size": 10240}
    config = text_part("config.json", {"model_type": "gemma3", "text_config": inner})
    assert (config["hidden_size"], config["num_hidden_layers"]) == (2560, 34)
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (8, 4, 256)
    assert (config["vocab_size"], config["tie_word_embeddings"]) == (262208, True)
    assert config["architectures"] == ["Gemma3ForCausalLM"]


@pytest.mark.parametrize("inner", [{"model_type": "qwen2_vl_text"}, {"model_type": ["llama"]}, {}, [1], "llama"])
def test_a_text_part_that_no_engine_knows_is_refused(tmp_path: Path, inner: Any) -> None:
    config = {"architectures": ["SpoonForConditionalGeneration"], "model_type": "spoon", "text_config": inner}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "config.json" in refused(tmp_path, open_model)


@pytest.mark.parametrize(
    "name",
    ["vision_tower.layers.0.w", "model.vision_tower.norm.w", "multi_modal_projector.norm.w", "audio.w"],
)
def test_tensors_for_pictures_and_sounds_are_left_out(name: str) -> None:
    assert text_name(name) is None
