"""One native library a process: no engine of the one is made where the other is loaded, in tests and in nodes."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from kit.groups import PYTORCH
from kit.processes import PYTHON, finish, python
from potluck.engine.exclusive import claim_process
from potluck.errors import EngineError
from potluck.llama.library import load

TESTS = Path(__file__).parent.parent
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")


def test_this_process_runs_llama_cpp_and_has_not_loaded_pytorch() -> None:
    load()
    assert "torch" not in sys.modules
    claim_process("llama.cpp")


@pytest.mark.parametrize(
    ("library", "told"),
    [
        ("llama.cpp", "uses llama.cpp cannot be made in a process that has loaded PyTorch"),
        ("PyTorch", "uses PyTorch cannot be made in a process that has loaded llama.cpp"),
    ],
)
def test_the_second_library_is_refused(library: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    load()
    with pytest.raises(EngineError, match=told):
        claim_process(library)  # type: ignore[arg-type]


def run(code: str) -> str:
    done = finish(*PYTHON, "-c", code)
    assert done.returncode == 1, done.stderr
    return done.stderr.splitlines()[-1]


@needs_torch
def test_the_engines_themselves_refuse() -> None:
    """Before they read a file: that there is none is not what they say."""
    assert "has loaded PyTorch" in run(
        """
import torch
from pathlib import Path
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.types import Attention, Capacity, Span
span, capacity = Span(0, 0), Capacity(1, 1, 1)
LlamaCppEngine(Path("none"), span=span, layers=1, attention=Attention.EXACT, capacity=capacity, threads=1)
"""
    )
    assert "has loaded llama.cpp" in run(
        """
from potluck.llama.library import load
load()
from potluck.engine.transformers import TransformersEngine
from potluck.types import Capacity, Span
TransformersEngine({}, {}, span=Span(0, 0), capacity=Capacity(1, 1, 1), threads=1)
"""
    )


@needs_torch
@pytest.mark.parametrize(
    ("engine", "loaded"),
    [
        ("potluck.engine.transformers", "potluck.llama.library.is_loaded()"),
        ("potluck.engine.llamacpp", "'torch' in sys.modules"),
    ],
)
def test_a_node_loads_the_library_of_its_engine_alone(engine: str, loaded: str) -> None:
    code = f"import sys, potluck.node.agent, potluck.llama.library, {engine}; sys.exit({loaded})"
    python("-c", code)


LOADS_BOTH = """
import importlib
def test_it():
    importlib.import_module("potluck.llama.library").load(), importlib.import_module("torch")
"""


REGISTERS = """
from kit import apart
def pytest_configure(config):
    apart.register(config, [])
"""


@needs_torch
def test_a_test_that_loads_both_libraries_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "test_both.py").write_text(LOADS_BOTH)
    (tmp_path / "conftest.py").write_text(REGISTERS)
    command = [*PYTHON, "-m", "pytest", "-c", os.devnull, "--rootdir", tmp_path, tmp_path]
    environment = {name: value for name, value in os.environ.items() if name != "POTLUCK_TESTS_CHILD"}
    done = finish(*command, env=environment | {"PYTHONPATH": str(TESTS)}, cwd=tmp_path)
    assert done.returncode == 3
    assert "PyTorch and llama.cpp are both loaded after test_both.py::test_it" in done.stdout + done.stderr


def test_what_runs_apart_is_told_from_what_does_not() -> None:
    """This file runs in the main process, the files of PyTorch in a child."""
    assert os.environ.get("POTLUCK_TESTS_CHILD") is None
    assert "tests/engine/test_exclusive.py" not in PYTORCH
    assert all((TESTS.parent / file).is_file() for file in PYTORCH)
