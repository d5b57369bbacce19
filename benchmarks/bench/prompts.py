"""Prompts of random tokens."""

from __future__ import annotations

from typing import cast

import numpy as np

Prompt = list[int]


class Prompts:
    """A source of prompts. No prompt comes twice, so that no node already holds a part of one."""

    def __init__(self, vocabulary: int, seed: int = 0) -> None:
        self._vocabulary = vocabulary
        self._random = np.random.default_rng(seed)

    def take(self, count: int, length: int) -> list[Prompt]:
        first = min(256, self._vocabulary // 4)  # the special tokens come first
        tokens = self._random.integers(first, self._vocabulary, (count, length)).tolist()
        return cast(list[Prompt], tokens)
