"""Measures a newcomer's link before it is given layers, because a slow link limits whatever the node serves."""

from __future__ import annotations

import os
from collections.abc import Callable

from potluck.coordinator.swarm.linkspeed import LinkSpeed
from potluck.errors import WireError
from potluck.wire.codec import decode_from_node, encode
from potluck.wire.link import Link
from potluck.wire.messages import Ping, Pong

_PROBE_BYTES = 128 << 10
_LEAST_S = 1e-5


async def probe_link(link: Link, clock: Callable[[], float]) -> LinkSpeed:
    """The speed of the link of a node that only answers pings so far. Raises WireError for any other answer."""
    empty_s = min([await _echo(link, number, b"", clock) for number in range(2)])
    full_s = await _echo(link, 2, os.urandom(_PROBE_BYTES), clock)  # random, so that no proxy makes it smaller
    return LinkSpeed(empty_s, 2 * _PROBE_BYTES / max(_LEAST_S, full_s - empty_s))


async def _echo(link: Link, number: int, payload: bytes, clock: Callable[[], float]) -> float:
    """The seconds until the payload is back."""
    began = clock()
    await link.send(encode(Ping(number), payload))
    message, came = decode_from_node(await link.receive())
    if not isinstance(message, Pong) or message.number != number or came != payload:
        raise WireError("A newcomer did not echo the payload that it was sent.")
    return clock() - began
