"""PyTorch checkpoints, written by a process of their own: the tests' one may have loaded llama.cpp.

As a program: `python -m kit.checkpoints TENSORS.npz CHECKPOINT` writes one.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest

_without = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


def needs_torch(test: Test) -> Test:
    """Marks a test that has another process use PyTorch."""
    return pytest.mark.torch(_without(test))


Test = TypeVar("Test", bound=Callable[..., object])
Arrays = Mapping[str, npt.NDArray[Any]]


def save_checkpoint(path: Path, tensors: Arrays) -> None:
    """What `torch.save` writes of a dictionary of these tensors."""
    arrays = path.with_suffix(".npz")
    np.savez(arrays, **tensors)
    here = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-m", "kit.checkpoints", arrays, path], cwd=here, check=True)
    arrays.unlink()


def _main(arrays: str, path: str) -> None:
    import torch

    with np.load(arrays) as tensors:
        torch.save({name: torch.from_numpy(tensors[name]) for name in tensors.files}, path)


if __name__ == "__main__":
    _main(*sys.argv[1:])
