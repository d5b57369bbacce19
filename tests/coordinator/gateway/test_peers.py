"""Whom a newcomer may fetch from, and which URLs of nodes are believed."""

from __future__ import annotations

import pytest

from potluck.coordinator.gateway.peers import MOST_PEERS, choose_peers, may_share
from potluck.coordinator.swarm.node import Node
from potluck.types import Capacity, NodeState, Span, Speed
from potluck.wire.messages import Ready


def node(first: int, last: int, port: int, state: NodeState = NodeState.READY, sessions: int = 0) -> Node:
    ready = Ready(Capacity(8, 100, 64), Speed(0.01, 0.001), "", "", url(port) if port else "")
    reserved = dict.fromkeys(range(sessions), 1)
    span = Span(first, last)
    return Node("anna", "0.1", span, 1, 1 << 30, 1e9, movable=False, state=state, ready=ready, reserved=reserved)


def url(port: int) -> str:
    return f"http://10.0.0.1:{port}"


def test_those_with_most_of_the_layers_come_first_and_of_these_the_least_busy():
    nodes = [node(0, 1, 1), node(0, 3, 2, sessions=2), node(1, 9, 3, sessions=1), node(4, 9, 4)]
    assert choose_peers(Span(0, 3), nodes) == (url(2), url(3), url(1))
    assert choose_peers(Span(2, 3), nodes) == (url(3), url(2))


@pytest.mark.parametrize("state", [state for state in NodeState if state is not NodeState.READY])
def test_only_nodes_that_are_ready_and_share_are_named(state):
    assert choose_peers(Span(0, 3), [node(0, 3, 1, state), node(0, 3, 0), node(0, 3, 2)]) == (url(2),)


def test_a_newcomer_gets_no_long_list():
    assert len(choose_peers(Span(0, 3), [node(0, 3, port) for port in range(1, 100)])) == MOST_PEERS


@pytest.mark.parametrize(
    ("shares", "host"),
    [
        ("http://192.168.1.5:4711", "192.168.1.5"),
        ("http://127.0.0.1:1", "127.0.0.1"),
        ("http://[fd00::1]:65535", "fd00::1"),
        ("http://[fd00:0::1]:1", "fd00::1"),
    ],
)
def test_a_node_may_share_at_its_own_address(shares, host):
    assert may_share(shares, host)


@pytest.mark.parametrize(
    "shares",
    [
        "",
        "http://192.168.1.6:4711",
        "http://127.0.0.1:4711",
        "https://192.168.1.5:4711",
        "http://192.168.1.5",
        "http://192.168.1.5:0",
        "http://192.168.1.5:65536",
        "http://192.168.1.5:4711/path",
        "http://192.168.1.5:4711?query",
        "http://192.168.1.5:4711\n",
        "http://user@192.168.1.5:4711",
        "http://192.168.1.5:4711@192.168.1.6:80",
        "http://192.168.1.5.example.org:80",
        "http://example.org:80",
        "http://192.168.1.05:4711",
        "http://[::ffff:192.168.1.5]:4711",
        "http://3232235781:4711",
    ],
)
def test_a_node_may_not_send_others_anywhere_else(shares):
    assert not may_share(shares, "192.168.1.5")
    assert not may_share(shares, "")
