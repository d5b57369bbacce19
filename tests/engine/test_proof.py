"""The self-test of a model's cuts."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.tiny_architectures import write_case, write_tiny
from kit.tiny_gguf import write_tiny_gguf
from potluck.engine.proof import parts, prove
from potluck.errors import EngineError
from potluck.types import Cuts, Span

SMALL = [Span(0, 0), Span(1, 2), Span(3, 4), Span(5, 7)]


def test_parts_are_as_long_as_the_memory_allows() -> None:
    cuts = Cuts((0, 1, 3, 5, 8))
    assert list(parts(cuts, [10] * 8, 1000)) == [(Span(0, 7), SMALL)]
    assert list(parts(cuts, [10] * 8, 50)) == [(Span(0, 4), SMALL[:3]), (Span(5, 7), SMALL[3:])]
    assert list(parts(cuts, [10] * 8, 1)) == [(one, [one]) for one in SMALL]


def test_parts_have_no_forbidden_length() -> None:
    cuts = Cuts((0, 4, 8, 12), frozenset({4}))
    assert list(parts(cuts, [10] * 12, 1000)) == [(Span(0, 11), [Span(0, 11)])]
    cuts = Cuts(tuple(range(10)), frozenset({1}))
    small = [span for _, spans in parts(cuts, [10] * 9, 50) for span in spans]
    assert sorted(map(len, small)) == [2, 2, 2, 3]
    assert all(cuts.allows(span) for span, _ in parts(cuts, [10] * 9, 50))


@pytest.mark.parametrize("memory", [1 << 30, 1 << 17])
def test_a_model_that_is_cut_rightly_passes(memory: int, tmp_path: Path) -> None:
    prove(write_tiny_gguf(tmp_path / "tiny.gguf", layers=4), memory)
    prove(write_case(tmp_path / "windows.gguf", "gpt-oss"), memory)


def test_a_model_whose_layers_depend_on_their_place_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nanbeige is not in the table: it may run through all its layers several times."""
    model = write_tiny(
        tmp_path / "unknown.gguf",
        "nanbeige",
        {"num_loops": 2},
    )
    with pytest.raises(EngineError, match="failed its self-test"):
        prove(model, 1 << 30)
