"""What every node would refuse, the coordinator refuses first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.processes import python
from kit.tiny_hf import write_safetensors, write_tiny_hf
from potluck.coordinator.model_choice import choose_context, choose_engine, footprint, usual_footprint
from potluck.errors import ModelError
from potluck.models.sources import open_model
from potluck.types import MOST_POSITIONS, EngineKind, Quantize, Span


def model(tmp_path: Path, **settings: Any) -> Path:
    return write_tiny_hf(tmp_path / "tiny", layers=2, shards=1, **settings)


def test_an_engine_that_cannot_run_the_model_is_refused_and_the_other_one_named(tmp_path: Path) -> None:
    manifest = open_model(model(tmp_path, model_type="falcon"))
    assert choose_engine(manifest, None, None) == (EngineKind.LLAMACPP, Quantize.Q8_0)
    with pytest.raises(ModelError, match=r"^The transformers engine cannot run tiny: .*; the llamacpp engine can run"):
        choose_engine(manifest, EngineKind.TRANSFORMERS, None)


def test_a_type_that_the_transformers_engine_cannot_carry_is_refused(tmp_path: Path) -> None:
    folder = model(tmp_path)
    tensors = {f"model.layers.{layer}.a": np.ones((2, 2), np.float32) for layer in (0, 1)}
    write_safetensors(folder / "model.safetensors", tensors | {"model.mask": np.ones((2, 2), np.bool_)})
    with pytest.raises(ModelError, match=r"Tensor model\.mask of model\.safetensors has the type BOOL, which Potluck"):
        choose_engine(open_model(folder), EngineKind.TRANSFORMERS, None)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_no_session_may_be_longer_than_the_factors_of_its_rope_are_good_for(tmp_path: Path, kind: str) -> None:
    scaling = {"rope_type": kind, "factor": 4.0, "original_max_position_embeddings": 512}
    manifest = open_model(model(tmp_path, rope_scaling=scaling))
    assert [choose_context(manifest, asked) for asked in (None, 100, 512)] == [512, 100, 512]
    with pytest.raises(ModelError, match=rf"^tiny has {kind} factors, which .* than 512 positions: use --context 512"):
        choose_context(manifest, 513)


def test_other_models_get_what_is_asked_for_up_to_their_own_context(tmp_path: Path) -> None:
    manifest = open_model(model(tmp_path))
    assert [choose_context(manifest, asked) for asked in (None, 100, 513)] == [512, 100, 512]


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 16.0},
        {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 512},
        {
            "rope_type": "llama3",
            "factor": 16.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 512,
        },
    ],
)
def test_factors_that_never_change_allow_the_models_whole_context(tmp_path: Path, scaling: dict[str, Any]) -> None:
    manifest = open_model(model(tmp_path, rope_scaling=scaling, max_position_embeddings=8192))
    assert [choose_context(manifest, asked) for asked in (None, 8192, 8193)] == [4096, 8192, 8192]


def test_no_session_is_longer_than_a_node_can_hold(tmp_path: Path) -> None:
    manifest = open_model(model(tmp_path, max_position_embeddings=10 * MOST_POSITIONS))
    assert choose_context(manifest, 10 * MOST_POSITIONS) == MOST_POSITIONS


def test_what_nobody_asks_for_is_the_first_engine_with_its_own_quantization(tmp_path: Path) -> None:
    manifest = open_model(write_tiny_hf(tmp_path / "tiny", "llama"))
    chosen = choose_engine(manifest, None, None)
    assert usual_footprint(manifest) == footprint(manifest, *chosen, choose_context(manifest, None))
    assert chosen == (EngineKind.LLAMACPP, Quantize.Q8_0)


@pytest.mark.parametrize("engine", EngineKind)
def test_a_long_head_leaves_the_last_node_fewer_layers(tmp_path: Path, engine: EngineKind) -> None:
    """The head has as many weights as four layers."""
    layer = 3 * 64 * 64 + 3 * 64 * 128
    path = write_tiny_hf(tmp_path / "tiny", "llama", layers=8, hidden=64, vocabulary=4 * layer // 64)
    manifest = open_model(path)
    sizes = footprint(manifest, *choose_engine(manifest, engine, None), 64)
    assert sizes.costs[-1] / sizes.costs[0] == pytest.approx(4, rel=0.1)
    assert sizes.share(2) == [Span(0, 5), Span(6, 7)]
    assert sizes.share(3) == [Span(0, 3), Span(4, 6), Span(7, 7)]


def test_the_coordinator_loads_neither_pytorch_nor_transformers(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
import potluck.coordinator.app
from potluck.coordinator.model_choice import choose_engine
from potluck.models.sources import open_model
from potluck.types import MOST_POSITIONS, EngineKind
choose_engine(open_model(Path({json.dumps(str(model(tmp_path)))})), EngineKind.TRANSFORMERS, None)
print({{"torch", "transformers"}} & sys.modules.keys())
"""
    assert python("-c", script) == "set()\n"
