"""Tracks which nodes are connected, where each came from, and how the coordinator ends a stay."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from potluck.types import Coordinator
from potluck.wire.fleet import Redirect
from potluck.wire.messages import Refusal


@dataclass(slots=True)
class _Stay:
    """One stay. task: serves the node. key: the one that it has proven, or empty.

    last: what the node is told last, because its stay was ended here, or None.
    """

    host: str
    task: asyncio.Task[Any]
    key: bytes = b""
    last: Refusal | Redirect | None = None


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

    @property
    def keys(self) -> set[bytes]:
        """The keys that nodes which are connected have proven."""
        return {stay.key for stay in self._stays.values() if stay.key}

    def host(self, node: str) -> str:
        """The address from which the node came."""
        return self._stays[node].host

    def end(self, node: str, reason: str) -> None:
        """Cancel the task that serves the node, once, for this reason."""
        self._end(node, Refusal(reason))

    def send(self, node: str, there: Coordinator) -> None:
        """Cancel the task that serves the node, once, because it is to go to another coordinator."""
        self._end(node, Redirect(there.url, there.key))

    def _end(self, node: str, last: Refusal | Redirect) -> None:
        stay = self._stays[node]
        if stay.last is None:
            stay.last = last
            stay.task.cancel()

    def last_word(self, node: str) -> Refusal | Redirect | None:
        """What the node is told last; None if its stay was not ended here."""
        return self._stays[node].last

    @property
    def cut(self) -> set[str]:
        """The nodes whose stay was ended here, and that are not quite gone."""
        return {node for node, stay in self._stays.items() if stay.last is not None}

    def forget(self, node: str) -> None:
        """Forget a node that is gone."""
        del self._stays[node]
