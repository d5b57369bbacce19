"""Lets the owner act on nodes by their keys, whichever model they serve: cut them off, readmit or trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from potluck.coordinator.gateway.gate import Gate
from potluck.coordinator.gateway.lobby import Lobby


class Moderation:
    def __init__(self, gates: Sequence[Gate], lobby: Lobby) -> None:
        self._gates = gates
        self._lobby = lobby

    def cut(self, key: bytes, reason: str) -> None:
        """Cut off all nodes with this public key now, with the reason. Their sessions continue without them.

        The tokens for peers that they know become worthless. Nodes that the door let in a moment ago, and that are not
        admitted yet, stay outside.
        """
        self._lobby.entrance.shut(key)
        for name in self._lobby.stays.of(key):
            self._lobby.stays.end(name, reason)
        for gate in self._gates:
            gate.welcomes.renew_peer_token(self._lobby.stays.cut)

    def pardon(self, key: bytes) -> None:
        """Readmit nodes with this key, from the next time that they come."""
        self._lobby.entrance.reopen(key)
        for gate in self._gates:
            gate.swarm.pardon(key)

    def trust(self, key: bytes, *, trusted: bool) -> None:
        """Vouch for nodes with this key from the next audit on, or stop doing so.

        Those that guess read every answer, so an open swarm ends their stay.
        """
        for name in self._lobby.stays.of(key):
            if (idle := self._lobby.idle.get(name)) is not None:
                self._lobby.idle[name] = replace(idle, entry=replace(idle.entry, trusted=trusted))
                continue
            known = [gate.swarm.nodes[name] for gate in self._gates if gate.has(name)]
            for node in known:
                node.entry = replace(node.entry, trusted=trusted)
            if not known and not trusted and self._lobby.entrance.is_open:
                self._lobby.stays.end(name, "The swarm's owner does not trust this node any more.")
