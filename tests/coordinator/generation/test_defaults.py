"""How a model's makers would have it sampled, from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from kit.tiny_gguf import write_tiny_gguf
from kit.tiny_hf import write_tiny_hf
from potluck.coordinator.generation.defaults import sampling_defaults
from potluck.coordinator.generation.sampling import SamplingParams
from potluck.errors import ModelError
from potluck.models.sources import open_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_hf(tmp_path / "tiny", layers=1)


def write(folder: Path, **told: Any) -> None:
    (folder / "generation_config.json").write_text(json.dumps(told))


def test_a_directory_says_it_in_its_generation_config(folder: Path) -> None:
    manifest = open_model(folder)
    assert sampling_defaults(manifest, folder) == SamplingParams()
    write(folder, temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.05, eos_token_id=[1, 2], min_p=None)
    expected = SamplingParams(temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.05)
    assert sampling_defaults(manifest, folder) == expected


@pytest.mark.parametrize("told", [{"temperature": -1}, {"top_p": "much"}, {"top_k": 1.5}, {"repetition_penalty": 0}])
def test_what_no_request_might_ask_for_is_refused(folder: Path, told: dict[str, Any]) -> None:
    write(folder, **told)
    with pytest.raises(ModelError, match=r"generation_config\.json is broken \(.*\); fetch it again\."):
        sampling_defaults(open_model(folder), folder)


def test_a_gguf_file_says_it_in_its_metadata(tmp_path: Path) -> None:
    plain = write_tiny_gguf(tmp_path / "plain.gguf")
    manifest = open_model(plain)
    assert sampling_defaults(manifest, plain) == SamplingParams()
    keys = gguf.Keys.General
    manifest.metadata[keys.SAMPLING_TEMP] = [["FLOAT32"], 0.5]
    manifest.metadata[keys.SAMPLING_TOP_K] = [["INT32"], 40]
    manifest.metadata[keys.SAMPLING_PENALTY_REPEAT] = [["FLOAT32"], 1.1]
    expected = SamplingParams(temperature=0.5, top_k=40, repetition_penalty=1.1)
    assert sampling_defaults(manifest, plain) == expected
