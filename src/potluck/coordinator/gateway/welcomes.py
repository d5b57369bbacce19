"""Welcomes nodes to their layers, with a ticket for the weights, peers, and a token among peers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from potluck.coordinator.gateway.peers import choose_peers
from potluck.coordinator.gateway.terms import Terms
from potluck.coordinator.gateway.tickets import Tickets
from potluck.coordinator.swarm.node import Node
from potluck.coordinator.swarm.swarm import Swarm
from potluck.types import Coordinator
from potluck.wire.codec import encode
from potluck.wire.fleet import Fleet
from potluck.wire.messages import PeerToken


def alone() -> Sequence[Coordinator]:
    """The other coordinators of one that has no fleet."""
    return ()


class Welcomes:
    """Sends welcomes. send: puts frames into outboxes. fleet: the other coordinators where nodes may serve."""

    def __init__(
        self,
        swarm: Swarm,
        terms: Terms,
        tickets: Tickets,
        send: Callable[..., None],
        fleet: Callable[[], Sequence[Coordinator]] = alone,
    ) -> None:
        self._swarm = swarm
        self._terms = terms
        self._tickets = tickets
        self._send = send
        self._fleet = fleet
        self._peer_token = secrets.token_urlsafe(32)

    def identify(self, digest: str) -> None:
        """Note the digest of the model, which was not known before."""
        self._terms = replace(self._terms, digest=digest)

    def admit(self, name: str) -> None:
        """Welcome a node to the span that it has now."""
        self._welcome(name, self._swarm.nodes[name], self._peer_token, tuple(self._fleet()))

    def show(self, name: str, newcomer: Node) -> None:
        """Tell a node that only asks what it would be given. It gets no token for peers, and hears of no others."""
        self._welcome(name, newcomer, peer_token="")

    def tell_fleet(self) -> None:
        """Tell all nodes of the swarm where else they may serve, because that has changed."""
        frame = encode(Fleet(tuple(self._fleet())))
        self._send(*((node, frame) for node in self._swarm.nodes))

    def _welcome(self, name: str, node: Node, peer_token: str, fleet: tuple[Coordinator, ...] = ()) -> None:
        peers, ticket = (
            choose_peers(node.span, self._swarm.nodes.values()),
            self._tickets.issue(name, self._terms.digest),
        )
        prospect = self._swarm.prospect(name, node)
        welcome = self._terms.welcome(name, node.span, ticket, peers, peer_token, prospect, fleet)
        self._send((name, encode(welcome)))

    def renew_peer_token(self, cut: Collection[str]) -> None:
        """Renew the token, so that the one that a cut node takes along opens nothing, whether it was here then or had
        left.
        """
        self._peer_token = secrets.token_urlsafe(32)
        frame = encode(PeerToken(self._peer_token))
        self._send(*((node, frame) for node in self._swarm.nodes if node not in cut))
