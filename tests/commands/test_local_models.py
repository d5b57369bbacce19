"""A path of a model, or the name of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from potluck.commands.local_models import is_path


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("code", False),
        ("acme/code", False),
        ("hf:OWNER/REPO:Q4_K_M", False),
        ("empty", False),
        ("held", True),
        ("file", True),
        ("lost.gguf", True),
        ("./code", True),
        ("~/code", True),
        (str(Path("/models/x").absolute()), True),
    ],
)
def test_what_is_meant(model: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "held"):
        Path(folder).mkdir()
    Path("held/config.json").touch()
    Path("file").touch()
    assert is_path(model) is expected
