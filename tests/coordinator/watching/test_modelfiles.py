"""The model's files while nodes need them: gone, cut, replaced, and back."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from potluck.coordinator.watching.modelfiles import ModelFiles

NAME = "model.gguf"
MISSING = f"The coordinator's file {NAME} is missing."
OTHER = f"The coordinator's file {NAME} is not the one that it was started with."


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def into_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def into_a_link(target: str, path: Path) -> None:
    path.unlink()
    path.symlink_to(target)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (Path.unlink, MISSING),
    "cut": (cut, OTHER),
    "longer": (lambda path: path.write_bytes(bytes(101)), OTHER),
    "a folder": (into_a_folder, OTHER),
    "a pipe": (into_a_pipe, OTHER),
    "a broken link": (partial(into_a_link, "ghost"), MISSING),
    "below a file": (partial(into_a_link, f"{__file__}/x"), "Not a directory"),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.write_bytes(bytes(100))
    return path


@pytest.mark.parametrize(("change", "sentence"), CHANGES.values(), ids=CHANGES)
def test_what_became_of_a_file(
    file: Path, change: Callable[[Path], object], sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files = ModelFiles(file.parent, [NAME])
    assert (files.check(NAME), files.fault) == ("", "")
    change(file)
    assert files.fault == ""  # nobody has asked for it
    assert sentence in files.check(NAME)
    assert sentence in files.check(NAME)
    assert sentence in files.fault
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"Nodes wait until it is restored, in {file.parent}." in caplog.text
    file.rmdir() if file.is_dir() else file.unlink(missing_ok=True)
    file.write_bytes(bytes(100))
    assert files.fault == ""
    assert files.check(NAME) == ""
    assert "is again as it was" in caplog.text


def test_a_file_that_was_written_to_is_told_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = ModelFiles(file.parent, [NAME])
    os.utime(file, ns=(0, 0))
    assert [files.check(NAME), files.check(NAME)] == ["", ""]
    [record] = caplog.records
    assert "was written to" in record.getMessage()


def test_other_files_are_not_to_blame(file: Path) -> None:
    other = file.with_name("other.gguf")
    other.write_bytes(b"x")
    files = ModelFiles(file.parent, [NAME, "other.gguf"])
    file.unlink()
    assert files.check("other.gguf") == ""
    assert files.check(NAME) == MISSING
    assert files.fault == MISSING
