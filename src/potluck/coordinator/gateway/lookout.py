"""Looks after the nodes as long as there are any: asks silent ones, finds late ones, and considers moves."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from potluck.coordinator.relay.relay import Relay
from potluck.coordinator.swarm.events import Event, Rebalance
from potluck.coordinator.swarm.heartbeat import LOOK_S, Ask, Heartbeat
from potluck.coordinator.swarm.swarm import Swarm
from potluck.types import NodeState
from potluck.wire.codec import encode
from potluck.wire.messages import Ping

_LONGEST_LOADING_S = 1800.0
"""Seconds without progress in loading. A large span is read from a slow disk in less."""

_REBALANCE_LOOKS = 16
"""Looks at the nodes between two considerations of their layers."""


class Lookout:
    """Looks after nodes. heartbeat: what is known of each node. apply: takes the events that follow.

    send: puts a frame into a node's outbox. end_stay: ends a node's stay for a reason.
    """

    def __init__(
        self,
        swarm: Swarm,
        relay: Relay,
        heartbeat: Heartbeat,
        apply: Callable[[Event], None],
        send: Callable[[tuple[str, bytes]], None],
        end_stay: Callable[[str, str], None],
    ) -> None:
        self._swarm = swarm
        self._relay = relay
        self._apply = apply
        self._send = send
        self._end_stay = end_stay
        self._heartbeat = heartbeat
        self._progress: dict[str, float] = {}
        """The times when nodes last made progress in loading."""
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._pings = itertools.count(1)
        self._looks = itertools.count(1)

    @property
    def watched(self) -> int:
        """The nodes that it remembers."""
        return len(self._heartbeat) + len(self._progress)

    def heard(self, node: str) -> None:
        """Note that a frame has come from this node."""
        self._heartbeat.heard(node, self._relay.clock())
        self._go_on()

    def got_on(self, node: str) -> None:
        """Note that the node has loaded more than before."""
        self._progress[node] = self._relay.clock()

    def forget(self, node: str) -> None:
        self._heartbeat.forget(node)
        self._progress.pop(node, None)

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _go_on(self) -> None:
        if self._timer is None and self._swarm.nodes and not self._stopped:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        nodes = self._swarm.nodes.items()
        serving = {name: node.measure for name, node in nodes if node.state is not NodeState.LOADING}
        for found in self._heartbeat.look(self._relay.clock(), self._relay.awaited(), serving):
            if isinstance(found, Ask):
                self._send((found.node, encode(Ping(next(self._pings)))))
            else:
                self._apply(found)
        if next(self._looks) % _REBALANCE_LOOKS == 0:
            self._end_idle_loading()
            self._apply(Rebalance())
        self._go_on()

    def _end_idle_loading(self) -> None:
        """End the stays of nodes that make no progress in loading, because layers are not kept for them forever."""
        now = self._relay.clock()
        for name, node in self._swarm.nodes.items():
            idle_s = now - self._progress.setdefault(name, now)
            if node.state is NodeState.LOADING and idle_s > _LONGEST_LOADING_S:
                self._end_stay(name, f"This node has made no progress in loading for {idle_s / 60:.0f} minutes.")
