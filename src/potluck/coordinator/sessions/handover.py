"""Moves sessions' keys and values from nodes that go to nodes that take over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from potluck.coordinator.relay.relay import Outgoing
from potluck.wire.codec import encode
from potluck.wire.messages import Export, Exported, Import, Imported
from potluck.wire.parts import Parts, state_frames

T = TypeVar("T")

log = logging.getLogger(__name__)

_PATIENCE_S = 10.0
"""Seconds to wait for a state to come or to arrive; after that it is computed."""


@dataclass(slots=True)
class _Pending:
    """The state, or the number of positions, that a node owes."""

    state: asyncio.Future[bytes] = field(default_factory=asyncio.Future)
    positions: asyncio.Future[int] = field(default_factory=asyncio.Future)
    parts: Parts = field(default_factory=Parts)


class Handover:
    """Moves states. If a node cannot give or take a state, or is too slow, the session is rebuilt instead.

    send: puts a frame into a node's outbox.
    """

    def __init__(self, send: Callable[[Outgoing], None]) -> None:
        self._send = send
        self._pending: dict[tuple[str, int], _Pending] = {}

    async def fetch(self, node: str, session: int, most: int) -> bytes:
        """The session's state, or nothing if there is none. most: the most bytes of it."""
        pending = self._pending[node, session] = _Pending()
        self._send((node, encode(Export(session, most))))
        return await self._wait(node, session, pending.state, b"")

    async def bring(self, node: str, session: int, state: bytes) -> int:
        """Bring a state to a node. Returns how many positions of the session the node then holds."""
        pending = self._pending[node, session] = _Pending()
        for frame in state_frames(Import, session, state):
            self._send((node, frame))
        return await self._wait(node, session, pending.positions, 0)

    async def _wait(self, node: str, session: int, future: asyncio.Future[T], otherwise: T) -> T:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await future
        except TimeoutError:
            log.warning("Session %d does not move from or to node %s in time.", session, node)
            return otherwise
        finally:
            self._pending.pop((node, session), None)

    def part(self, node: str, message: Exported, payload: memoryview) -> bool:
        """Take a part of a state. Returns whether it was awaited. Raises WireError for a part that does not follow."""
        pending = self._pending.get((node, message.session))
        if pending is None or pending.state.done():
            return False
        state = pending.parts.add(message.left, payload)
        if state is not None:
            pending.state.set_result(state)
        return True

    def imported(self, node: str, message: Imported) -> None:
        pending = self._pending.get((node, message.session))
        if pending is not None and not pending.positions.done():
            pending.positions.set_result(message.positions)

    def lost(self, node: str) -> None:
        """Expect nothing more from a node."""
        for (other, _), pending in self._pending.items():
            if other == node and not pending.state.done():
                pending.state.set_result(b"")
            if other == node and not pending.positions.done():
                pending.positions.set_result(0)
