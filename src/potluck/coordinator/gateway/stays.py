"""Which nodes are connected, whence each came, and how a stay is ended from here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class _Stay:
    """task: serves the node. cut: why it was ended here; None: it was not."""

    host: str
    task: asyncio.Task[Any]
    cut: str | None = None


class Stays:
    """By the nodes' names."""

    def __init__(self) -> None:
        self._stays: dict[str, _Stay] = {}

    def begin(self, node: str, host: str, task: asyncio.Task[Any]) -> None:
        """A node has connected from this address, and this task serves it. `forget` it."""
        self._stays[node] = _Stay(host, task)

    def host(self, node: str) -> str:
        """The address from which the node came."""
        return self._stays[node].host

    def end(self, node: str, reason: str) -> None:
        """Cancel the task that serves the node, once."""
        stay = self._stays[node]
        if stay.cut is None:
            stay.cut = reason
            stay.task.cancel()

    def why_cut(self, node: str) -> str | None:
        """The reason why the node's stay was ended here; None where it was not."""
        return self._stays[node].cut

    @property
    def cut(self) -> set[str]:
        """Nodes whose stay was ended here, and that are not quite gone."""
        return {node for node, stay in self._stays.items() if stay.cut is not None}

    def forget(self, node: str) -> None:
        """The node is gone."""
        del self._stays[node]
