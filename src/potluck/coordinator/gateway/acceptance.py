"""What the owner of a node lets it serve. Pure."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from potluck.coordinator.gateway.gate import Gate
from potluck.coordinator.swarm.events import Joined


def accepts(joined: Joined, gate: Gate) -> bool:
    """Whether the node's owner lets it serve this model. Offered models are for those who accept any, or name them."""
    hello = joined.hello
    if hello.serves:
        return hello.serves in gate.names
    return gate.demand.always or hello.any or (hello.model != "" and hello.model == gate.swarm.digest)


def is_free(joined: Joined) -> bool:
    """Whether the node's owner left it to the coordinator what it serves."""
    hello = joined.hello
    return hello.movable and not hello.serves and not hello.model


def anew(joined: Joined) -> Joined:
    """The node as it would come if it held nothing."""
    return replace(joined, hello=structs.replace(joined.hello, span=None, holds=""))
