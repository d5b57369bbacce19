"""What `/status` tells: the model, who serves which layers, and what is missing."""

from __future__ import annotations

from msgspec import Struct

from potluck.coordinator.swarm import Node, Swarm


class NodeStatus(Struct, frozen=True):
    """tokens_per_s: of one stream through this node's span alone. sessions: answers under way on it.

    parked: sessions that are kept for a follow-up. held: sessions whose keys and values it holds, as it said last.
    round_trip_s: what a step takes besides the node.
    """

    name: str
    span: str
    state: str
    progress: float
    tokens_per_s: float | None
    prefill_tokens_per_s: float | None
    sessions: int
    parked: int
    held: int
    round_trip_s: float
    threads: int
    memory: int
    layout: str
    twin: str
    software: str


class Status(Struct, frozen=True):
    """served: how many ready nodes serve each layer. missing: spans that none serves. waiting: requests in line."""

    model: str
    digest: str
    layers: int
    context: int
    served: list[int]
    covered: bool
    missing: list[str]
    waiting: int
    nodes: list[NodeStatus]


def swarm_status(swarm: Swarm, model: str, digest: str, context: int, waiting: int) -> Status:
    missing = [str(span) for span in swarm.missing()]
    nodes = [_node_status(node) for node in sorted(swarm.nodes.values(), key=lambda node: (node.span, node.name))]
    return Status(model, digest, swarm.layers, context, swarm.served(), not missing, missing, waiting, nodes)


def _node_status(node: Node) -> NodeStatus:
    return NodeStatus(
        name=node.name,
        span=str(node.span),
        state=node.state,
        progress=round(node.fraction, 3),
        tokens_per_s=_rate(node.ready.speed.decode_s),
        prefill_tokens_per_s=_rate(node.ready.speed.prefill_s),
        sessions=node.open_sessions,
        parked=len(node.parked),
        held=node.held,
        round_trip_s=round(node.measure.hop_s, 5),
        threads=node.threads,
        memory=node.memory,
        layout=node.ready.layout,
        twin=node.ready.twin,
        software=node.software,
    )


def _rate(seconds: float) -> float | None:
    return round(1 / seconds, 1) if seconds else None
