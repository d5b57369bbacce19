"""The sets of kernels that `kit.kernels` compiles: each is what its name says, and none is another one's twin."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType

from kit.kernels import KERNEL_SETS, KernelSet
from kit.processes import python
from kit.tiny_gguf import write_tiny_gguf
from potluck.engine.library_report import parse_kernels
from potluck.llama.files import CHOSEN

TELL = """
import sys
from pathlib import Path
from potluck.llama.library import load
from potluck.engine.probe import Trial, measure
from potluck.types import Attention, Capacity, Span
engine = Trial(sys.argv[1], Span(0, 1), 2, Attention.EXACT, 1, True).load(Capacity(2, 256, 64))
print(measure(engine)[1])
print(load().llama_print_system_info().decode())
"""


def tell(model: Path, kernels: KernelSet | None = None) -> tuple[str, str]:
    """A twin mark, and what llama.cpp says of its kernels, from a process with this set or with the installed one."""
    environment = os.environ | ({CHOSEN: str(kernels.folder)} if kernels else {})
    mark, system = python("-c", TELL, model, env=environment).splitlines()
    return mark, system


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return write_tiny_gguf(path, "llama", layers=2, dtype=GGMLQuantizationType.Q8_0)


@pytest.mark.parametrize("kernels", KERNEL_SETS, ids=lambda kernels: kernels.name)
def test_a_set_has_its_instructions_and_no_others(kernels: KernelSet, model: Path) -> None:
    if kernels.missing:
        pytest.skip(kernels.missing)
    _, system = tell(model, kernels)
    told = parse_kernels(system)
    for feature in ("AVX", "AVX2", "FMA", "F16C", "AVX512", "AVX512_VNNI", "AMX_INT8"):
        assert (feature in told) == (feature in kernels.features), feature


def test_engines_with_other_kernels_are_no_twins(model: Path) -> None:
    marks = [tell(model)[0], *(tell(model, kernels)[0] for kernels in KERNEL_SETS if not kernels.missing)]
    assert all(marks)
    assert len(set(marks)) == len(marks)
