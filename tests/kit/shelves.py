"""Shelves for kept answers: in memory, and in a folder that several processes share."""

from __future__ import annotations

import os
from pathlib import Path

from potluck.errors import Unavailable


class MemoryShelf(dict[str, bytes]):
    """A shelf in memory. away: whether nobody can reach it now. puts: the names of what was put, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.puts: list[str] = []

    async def put(self, name: str, value: bytes) -> None:
        self._check()
        self.puts.append(name)
        self[name] = value

    async def get(self, name: str) -> bytes | None:  # type: ignore[override]
        self._check()
        return super().get(name)

    def _check(self) -> None:
        if self.away:
            raise Unavailable("The store is away.")


class FileShelf:
    """A shelf in a folder, where it survives the processes that use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, name: str, value: bytes) -> None:
        draft = self._folder / f"{name}.{os.getpid()}"
        draft.write_bytes(value)
        draft.replace(self._folder / name)

    async def get(self, name: str) -> bytes | None:
        path = self._folder / name
        return path.read_bytes() if path.exists() else None
