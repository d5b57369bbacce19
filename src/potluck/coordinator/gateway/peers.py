"""Decides from which nodes a newcomer may download its layers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from potluck.coordinator.swarm.node import Node
from potluck.types import NodeState, Span

MOST_PEERS = 8

_URL = re.compile(r"http://(?:\[([0-9a-f:]+)\]|([0-9.]+)):([0-9]{1,5})")


def may_share(url: str, host: str) -> bool:
    """Whether a node seen at the address `host` may send others to this URL, which must be that address and a port.

    Otherwise a node could turn the whole swarm against a third party.
    """
    match = _URL.fullmatch(url)
    if match is None or not 0 < int(match[3]) < 1 << 16:
        return False
    try:
        return ip_address(match[1] or match[2]) == ip_address(host)
    except ValueError:
        return False


def choose_peers(span: Span, nodes: Iterable[Node]) -> tuple[str, ...]:
    """The URLs of ready nodes that share some of these layers: those with the most of them, and of these the least
    busy.
    """
    sharing = [node for node in nodes if node.state is NodeState.READY and node.ready.shares and _common(node, span)]
    best = sorted(sharing, key=lambda node: (-_common(node, span), node.open_sessions))
    return tuple(node.ready.shares for node in best[:MOST_PEERS])


def _common(node: Node, span: Span) -> int:
    return max(0, min(node.span.last, span.last) - max(node.span.first, span.first) + 1)
