"""Remembers which conversions of a half-made span file are done, so that an interrupted run can continue."""

from __future__ import annotations

import hashlib
from pathlib import Path

from potluck.models.manifest import Tensor


class Finished:
    """A text file with a line for each finished piece: a key of what it was made from, and the SHA-256 of the result.

    A line that is cut short, or that belongs to another model, matches nothing, and its piece is simply made again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = set(path.read_text("utf-8").splitlines()) if path.exists() else set()

    def has(self, name: str, tensors: tuple[Tensor, ...], digest: str) -> bool:
        return _line(name, tensors, digest) in self._lines

    def add(self, name: str, tensors: tuple[Tensor, ...], digest: str) -> None:
        line = _line(name, tensors, digest)
        self._lines.add(line)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")  # begins on a line of its own, whatever an interrupted run left

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)


def _line(name: str, tensors: tuple[Tensor, ...], digest: str) -> str:
    made_from = "|".join([name, *(tensor.sha256 for tensor in tensors)])
    return f"{hashlib.sha256(made_from.encode()).hexdigest()} {digest}"
