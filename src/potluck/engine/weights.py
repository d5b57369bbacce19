"""Reads a raw span file's tensors as PyTorch's, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from potluck.models.spans import read_raw_span


class RawWeights(Mapping[str, torch.Tensor]):
    """The tensors of a file that `potluck.models.spans.plan_raw_span` has laid out, by the checkpoint's names."""

    def __init__(self, path: Path) -> None:
        self._arrays = read_raw_span(path)

    def __getitem__(self, name: str) -> torch.Tensor:
        dtype, view = self._arrays[name]
        tensor = torch.from_numpy(np.array(view))  # a copy: the file's pages are read-only
        return tensor.view(torch.bfloat16) if dtype == "BF16" else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)
