"""Welcomes nodes to their layers, with a ticket for the weights, peers, and a token among peers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection

from potluck.coordinator.gateway.peers import choose_peers
from potluck.coordinator.gateway.terms import Terms
from potluck.coordinator.gateway.tickets import Tickets
from potluck.coordinator.swarm.node import Node
from potluck.coordinator.swarm.swarm import Swarm
from potluck.wire.codec import encode
from potluck.wire.messages import PeerToken


class Welcomes:
    """Sends welcomes. send: puts frames into outboxes."""

    def __init__(self, swarm: Swarm, terms: Terms, tickets: Tickets, send: Callable[..., None]) -> None:
        self._swarm = swarm
        self._terms = terms
        self._tickets = tickets
        self._send = send
        self._peer_token = secrets.token_urlsafe(32)

    def admit(self, name: str) -> None:
        """Welcome a node to the span that it has now."""
        self._welcome(name, self._swarm.nodes[name], self._peer_token)

    def show(self, name: str, newcomer: Node) -> None:
        """Tell a node that only asks what it would be given. It gets no token for its peers."""
        self._welcome(name, newcomer, peer_token="")

    def _welcome(self, name: str, node: Node, peer_token: str) -> None:
        peers, ticket = (
            choose_peers(node.span, self._swarm.nodes.values()),
            self._tickets.issue(name, self._terms.digest),
        )
        prospect = self._swarm.prospect(name, node)
        welcome = self._terms.welcome(name, node.span, ticket, peers, peer_token, prospect)
        self._send((name, encode(welcome)))

    def renew_peer_token(self, cut: Collection[str]) -> None:
        """Renew the token, so that the one that a cut node takes along opens nothing, whether it was here then or had
        left.
        """
        self._peer_token = secrets.token_urlsafe(32)
        frame = encode(PeerToken(self._peer_token))
        self._send(*((node, frame) for node in self._swarm.nodes if node not in cut))
