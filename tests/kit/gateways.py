"""The gateway and the moderation of a swarm that is served alone."""

from __future__ import annotations

from potluck.coordinator.compose import SwarmService
from potluck.coordinator.gateway.gate import Gate
from potluck.coordinator.gateway.gateway import Gateway
from potluck.coordinator.gateway.moderation import Moderation

_gateways: dict[Gate, Gateway] = {}


def gateway_of(service: SwarmService) -> Gateway:
    """The gateway of this swarm, which is the same each time."""
    if service.gate not in _gateways:
        _gateways[service.gate] = Gateway([service.gate], service.lobby)
    return _gateways[service.gate]


def moderation_of(service: SwarmService) -> Moderation:
    return Moderation([service.gate], service.lobby)
