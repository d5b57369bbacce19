"""PyTorch checkpoints, written by a process of their own: the tests' one may have loaded llama.cpp.

As a program: `python -m kit.checkpoints TENSORS.npz CHECKPOINT` writes one.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest

from kit.processes import python

_without = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


def needs_torch(test: Test) -> Test:
    """Marks a test that has another process use PyTorch."""
    marked: Test = pytest.mark.torch(_without(test))
    return marked


Test = TypeVar("Test", bound=Callable[..., object])
Arrays = Mapping[str, npt.NDArray[Any]]


def save_checkpoint(path: Path, tensors: Arrays) -> None:
    """What `torch.save` writes of a dictionary of these tensors."""
    arrays = path.with_suffix(".npz")
    np.savez(arrays, allow_pickle=False, **tensors)
    here = Path(__file__).parent.parent
    python("-m", "kit.checkpoints", arrays, path, cwd=here)
    arrays.unlink()


def _main(arrays: str, path: str) -> None:
    import torch

    with np.load(arrays) as tensors:
        torch.save({name: torch.from_numpy(tensors[name]) for name in tensors.files}, path)


if __name__ == "__main__":
    _main(*sys.argv[1:])
