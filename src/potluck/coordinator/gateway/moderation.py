"""What the swarm's owner does about nodes, by their keys: cuts them, lets them in again, or vouches for them."""

from __future__ import annotations

from dataclasses import replace

from potluck.coordinator.gateway.entrance import Entrance
from potluck.coordinator.gateway.stays import Stays
from potluck.coordinator.gateway.welcomes import Welcomes
from potluck.coordinator.swarm.swarm import Swarm


class Moderation:
    def __init__(self, swarm: Swarm, entrance: Entrance, stays: Stays, welcomes: Welcomes) -> None:
        self._swarm = swarm
        self._entrance = entrance
        self._stays = stays
        self._welcomes = welcomes

    def cut(self, key: bytes, reason: str) -> None:
        """Nodes with this public key go now, with the reason; their sessions go on without them.

        What they know of the others' tokens is worth nothing then. Those that the door let in a moment ago, and that
        are not admitted yet, stay outside.
        """
        self._entrance.shut(key)
        for name, known in self._swarm.nodes.items():
            if known.key == key:
                self._stays.end(name, reason)
        self._welcomes.renew_peer_token(self._stays.cut)

    def pardon(self, key: bytes) -> None:
        """The owner lets nodes with this key in again, from the next time that they come."""
        self._entrance.reopen(key)
        self._swarm.pardon(key)

    def trust(self, key: bytes, *, trusted: bool) -> None:
        """The owner vouches for nodes with this key, from the next audit on, or does not any more."""
        for node in self._swarm.nodes.values():
            if node.key == key:
                node.entry = replace(node.entry, trusted=trusted)
