"""A shelf for kept answers, in memory."""

from __future__ import annotations

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
