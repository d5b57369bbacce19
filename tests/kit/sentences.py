"""Checks that errors are sentences fit for people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from potluck.errors import ModelError, PotluckError


def check_sentence(error: PotluckError, path: Path = Path("FILE")) -> None:
    """path: of the file that it is about, which may be long."""
    said = str(error).replace(str(path), "FILE")
    assert said.isprintable(), said
    assert said.endswith("."), said
    assert len(said) < 400, said


def refused(path: Path, read: Callable[[Path], object]) -> str:
    """The sentence with which the file is refused."""
    with pytest.raises(ModelError) as caught:
        read(path)
    check_sentence(caught.value, path)
    return str(caught.value)
