"""The gateway and the moderation of a swarm that is served alone."""

from __future__ import annotations

from weakref import WeakValueDictionary

from potluck.coordinator.compose import SwarmService
from potluck.coordinator.gateway.gateway import Gateway
from potluck.coordinator.gateway.moderation import Moderation

_gateways: WeakValueDictionary[int, Gateway] = WeakValueDictionary()
"""The gateways by the identities of their gates, with which they go."""


def gateway_of(service: SwarmService) -> Gateway:
    """The gateway of this swarm, which is the same each time."""
    gateway = _gateways.get(id(service.gate))
    if gateway is None:
        gateway = _gateways[id(service.gate)] = Gateway([service.gate], service.lobby)
    return gateway


def moderation_of(service: SwarmService) -> Moderation:
    return Moderation([service.gate], service.lobby)
