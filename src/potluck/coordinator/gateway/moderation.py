"""Lets the swarm's owner act on nodes by their keys: cut them off, readmit them, or vouch for them."""

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
        """Cut off all nodes with this public key now, with the reason. Their sessions continue without them.

        The tokens for peers that they know become worthless. Nodes that the door let in a moment ago, and that are not
        admitted yet, stay outside.
        """
        self._entrance.shut(key)
        for name in self._stays.of(key):
            self._stays.end(name, reason)
        self._welcomes.renew_peer_token(self._stays.cut)

    def pardon(self, key: bytes) -> None:
        """Readmit nodes with this key, from the next time that they come."""
        self._entrance.reopen(key)
        self._swarm.pardon(key)

    def trust(self, key: bytes, *, trusted: bool) -> None:
        """Vouch for nodes with this key from the next audit on, or stop doing so.

        Those that guess read every answer, and have to be admitted again.
        """
        for name in self._stays.of(key):
            if (node := self._swarm.nodes.get(name)) is not None:
                node.entry = replace(node.entry, trusted=trusted)
            elif not trusted:
                self._stays.end(name, "The swarm's owner does not trust this node any more.")
