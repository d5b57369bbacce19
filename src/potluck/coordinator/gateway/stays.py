"""Tracks which nodes are connected, where each came from, and how the coordinator ends a stay."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class _Stay:
    """One stay. task: serves the node. key: the one that it has proven, or empty.

    cut: the reason why it was ended here, or None.
    """

    host: str
    task: asyncio.Task[Any]
    key: bytes = b""
    cut: str | None = None


class Stays:
    """The stays by the nodes' names."""

    def __init__(self) -> None:
        self._stays: dict[str, _Stay] = {}

    def begin(self, node: str, host: str, task: asyncio.Task[Any]) -> None:
        """Note that a node has connected from this address, and that this task serves it. `forget` it afterwards."""
        self._stays[node] = _Stay(host, task)

    def prove(self, node: str, key: bytes) -> None:
        """Note that the node has proven this key."""
        self._stays[node].key = key

    def of(self, key: bytes) -> list[str]:
        """The nodes that have proven this key."""
        return [node for node, stay in self._stays.items() if stay.key == key]

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
        """The reason why the node's stay was ended here; None if it was not."""
        return self._stays[node].cut

    @property
    def cut(self) -> set[str]:
        """The nodes whose stay was ended here, and that are not quite gone."""
        return {node for node, stay in self._stays.items() if stay.cut is not None}

    def forget(self, node: str) -> None:
        """Forget a node that is gone."""
        del self._stays[node]
