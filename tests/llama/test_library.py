"""The library of a process: which of several kernels for the CPU it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from potluck.llama import library as loading
from potluck.llama.files import find_library
from potluck.llama.library import kernels_to_try, load, ranked_kernels


class Plugin:
    """A plug-in that says how well it fits this CPU; None if it has no word for it."""

    def __init__(self, score: int | None) -> None:
        if score is not None:
            self.ggml_backend_score = lambda: score


def test_kernels_are_ranked_by_their_own_word(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"x64.so": 1, "haswell.so": 64, "amx.so": 0, "unknown.so": None, "zen4.so": 512}
    monkeypatch.setattr(loading, "_open", lambda file: Plugin(scores.get(file.name)))
    files = find_library()._replace(kernels=tuple(Path(name) for name in scores))
    assert [file.name for file in ranked_kernels(files)] == ["zen4.so", "haswell.so", "x64.so", "unknown.so"]


def test_kernels_that_cannot_be_opened_do_no_harm(tmp_path: Path) -> None:
    broken = tmp_path / "libggml-cpu-zen9.so"
    broken.write_bytes(b"no library")
    assert ranked_kernels(find_library()._replace(kernels=(broken,))) == []


def test_a_process_that_has_loaded_its_kernels_can_take_no_others() -> None:
    library = load()
    assert kernels_to_try() == ([] if library.kernels is None else [library.kernels])
    assert load(Path("others.so")) is library
