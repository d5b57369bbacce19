"""`serve` refuses what cannot be cut, and lets a self-test decide over what nobody has looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.processes import complaint
from kit.tiny_architectures import write_case, write_tiny
from kit.tiny_gguf import write_tiny_gguf
from potluck.models.architectures import TABLE


def unknown(folder: Path, **metadata: int) -> Path:
    """A model of an architecture that is not in the table, because it may run through its layers several times."""
    assert "nanbeige" not in TABLE
    return write_tiny(folder / "unknown.gguf", "nanbeige", metadata)


def test_an_architecture_that_cannot_be_cut_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = write_case(tmp_path / "windows.gguf", "gemma4", {"attention.shared_kv_layers": 1})
    said = complaint("serve", model, "--port", 0)
    assert "gemma4 cannot be split: its layers need more than the row that the layer before gives them" in said


def test_an_architecture_that_nobody_has_proved_is_refused(tmp_path: Path) -> None:
    said = complaint("serve", unknown(tmp_path), "--port", 0)
    assert "nanbeige, of which nobody has proved" in said
    assert "give --try" in said


def test_a_model_that_fails_its_self_test_is_refused(tmp_path: Path) -> None:
    said = complaint("serve", unknown(tmp_path, num_loops=2), "--port", 0, "--try")
    assert said.startswith("unknown.gguf failed its self-test: ")


@pytest.mark.parametrize("option", ["--try", "--check"])
def test_a_model_that_passes_its_self_test_is_served(option: str, tmp_path: Path) -> None:
    """As far as its tokenizer goes, which these have not."""
    model = unknown(tmp_path) if option == "--try" else write_tiny_gguf(tmp_path / "known.gguf")
    said = complaint("serve", model, "--port", 0, option)
    assert "tokenizer" in said
    assert "self-test" not in said
