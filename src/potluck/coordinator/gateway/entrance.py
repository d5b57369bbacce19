"""The entrance for nodes that have dialled and are not yet admitted: it finds out who they are, within a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from potluck.coordinator.gateway.linkprobe import probe_link
from potluck.coordinator.gateway.reception import Reception
from potluck.coordinator.swarm.events import Joined
from potluck.coordinator.swarm.linkspeed import UNKNOWN
from potluck.errors import LinkClosed, Refused, WireError
from potluck.wire.link import Link
from potluck.wire.messages import Hello

_HELLO_S = 30.0
"""Seconds in which a new node must prove who it is, and in which its link is measured."""


class Entrance:
    """The entrance of a coordinator. clock: seconds, for the speed of a newcomer's link."""

    def __init__(self, reception: Reception, clock: Callable[[], float] = time.perf_counter) -> None:
        self._reception = reception
        self.is_open = reception.is_open
        self._clock = clock
        self._shut: set[bytes] = set()
        """The keys that were revoked since the coordinator started."""

    async def introduce(self, node: str, link: Link, on_proven: Callable[[Hello], None]) -> Joined:
        """The node at the other end, proven and measured. Raises WireError, IdentityError, Refused or StoreError.

        on_proven: is called when the node has proven its key and the door has let it in.
        """
        try:
            async with asyncio.timeout(_HELLO_S):
                hello, entry = await self._reception.meet(link)
                on_proven(hello)
                # Whose owner chose the layers has them whatever its link is like.
                speed = await probe_link(link, self._clock) if hello.movable else UNKNOWN
        except TimeoutError as error:
            raise WireError(f"No hello came within {_HELLO_S:.0f} s.") from error
        if hello.key in self._shut:
            raise Refused("The swarm's owner has revoked this node.")
        return Joined(node, hello, entry, speed)

    async def linger(self, link: Link) -> None:
        """Wait until a node that only asked hangs up, or for a while."""
        with suppress(LinkClosed, TimeoutError):
            async with asyncio.timeout(_HELLO_S):
                await link.receive()

    def shut(self, key: bytes) -> None:
        """Keep nodes with this key outside, including those that the door has let in a moment ago."""
        self._shut.add(key)

    @property
    def shut_out(self) -> frozenset[bytes]:
        """The keys that are kept outside."""
        return frozenset(self._shut)

    def reopen(self, key: bytes) -> None:
        self._shut.discard(key)
