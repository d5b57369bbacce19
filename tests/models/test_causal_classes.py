"""The table of transformers' classes is the one of the installed library."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from potluck.models import causal_classes


def test_the_table_is_that_of_the_installed_library() -> None:
    pytest.importorskip("transformers")
    made = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "make_classes.py"))
    assert made["PAGE"] == Path(causal_classes.__file__)
    assert made["page"]() == made["PAGE"].read_text("utf-8"), "transformers has changed: run make docs."
