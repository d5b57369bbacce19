"""The compiled tap is found where `make native` puts it, and in Potluck's own llama.cpp."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from potluck.engine import tap


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that brings the tap, in the form of `packaging`."""
    [compiled, *_] = tap._compiled_files()
    folder = tmp_path / "potluck_llama"
    folder.mkdir()
    (folder / "__init__.py").touch()
    shutil.copy(compiled, folder / f"_tap{Path(compiled).suffix}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "potluck_llama", raising=False)
    importlib.invalidate_caches()
    yield folder / f"_tap{Path(compiled).suffix}"
    sys.modules.pop("potluck_llama", None)


def test_the_package_with_llamacpp_brings_the_tap(brought: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = tap._compiled_files()
    assert Path(other) == brought != Path(own)
    monkeypatch.setattr(tap, "_compiled_files", lambda: iter([other]))
    assert tap.compiled_library() is not None


def test_without_either_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "_compiled_files", lambda: iter([]))
    assert tap.compiled_library() is None
