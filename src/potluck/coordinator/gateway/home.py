"""The home of a node: the model that it serves."""

from __future__ import annotations

from typing import NamedTuple

from potluck.coordinator.gateway.gate import Gate
from potluck.coordinator.swarm.events import Joined


class Home(NamedTuple):
    """The gate of the model that a node serves, and what was known of the node when it came. lent: by another model,
    or called when somebody asked for this one.
    """

    gate: Gate
    joined: Joined
    lent: bool = False
