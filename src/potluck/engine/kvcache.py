"""The KV cache of the transformers engine: what each session's positions have left in each layer.

Shapes: n new positions, m positions held with them, g key/value heads, e size of a head (values may have another).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from potluck.errors import CapacityError, EngineError
from potluck.types import Capacity

_BLOCK = 128  # buffers grow by so many positions: each growth copies, and copying every token would double the reads


@dataclass(slots=True)
class SessionKv:
    """One session's keys and values.

    length: the positions held. What buffers hold beyond this is void, so a failed pass is undone by not counting it.
    deepest: the last layer (in the model's numbering) that all of its positions have gone through.
    """

    deepest: int
    length: int = 0
    _buffers: dict[tuple[int, str], torch.Tensor] = field(default_factory=dict)

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put `[1, g, n, e]` after the positions held. Returns the keys and values of all of them, `[1, g, m, e]`."""
        return self._write((layer, "key"), key), self._write((layer, "value"), value)

    def _write(self, name: tuple[int, str], new: torch.Tensor) -> torch.Tensor:
        end = self.length + new.shape[2]
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape[2] < end:
            buffer = self._buffers[name] = self._grown(buffer, new, end)
        buffer[:, :, self.length : end] = new
        return buffer[:, :, :end]

    def _grown(self, old: torch.Tensor | None, like: torch.Tensor, end: int) -> torch.Tensor:
        shape = list(like.shape)
        shape[2] = -(-end // _BLOCK) * _BLOCK
        buffer = like.new_empty(shape)
        if old is not None:
            buffer[:, :, : self.length] = old[:, :, : self.length]
        return buffer


class KvCache:
    """The sessions of one engine, within its capacity."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._sessions: dict[int, SessionKv] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def length(self, session: int) -> int:
        return self._sessions[session].length if session in self._sessions else 0

    def reserve(self, sessions: list[int], rows: int, last: int) -> list[SessionKv]:
        """The caches of these sessions for a pass of `rows` rows in total up to layer `last`. Nothing is changed yet.

        Raises CapacityError when sessions or positions would exceed the capacity, EngineError when a session would go
        deeper than before, because its earlier positions have left nothing in those layers.
        """
        self._check_room([session for session in sessions if session not in self._sessions], rows)
        caches = [self._sessions.get(session) or SessionKv(deepest=last) for session in sessions]
        for cache in caches:
            if last > cache.deepest:
                raise EngineError(f"A session run up to layer {cache.deepest} cannot go on up to layer {last}.")
        return caches

    def _check_room(self, new: list[int], rows: int) -> None:
        if len(self._sessions) + len(new) > self._capacity.sessions:
            raise CapacityError(f"All {self._capacity.sessions} sessions of this node are taken.")
        if sum(cache.length for cache in self._sessions.values()) + rows > self._capacity.positions:
            raise CapacityError(f"The KV cache of {self._capacity.positions} positions is full.")

    def commit(self, session: int, cache: SessionKv, rows: int, last: int) -> None:
        """Count the rows that a pass up to layer `last` has appended."""
        cache.length += rows
        cache.deepest = last
        self._sessions[session] = cache

    def truncate(self, session: int, length: int) -> None:
        if length == 0:
            self.close(session)
        elif length < self.length(session):
            self._sessions[session].length = length

    def close(self, session: int) -> None:
        self._sessions.pop(session, None)

    def clear(self) -> None:
        self._sessions.clear()
