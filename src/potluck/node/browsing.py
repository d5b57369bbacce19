"""Looks for coordinators that announce themselves on this machine's network (mDNS)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from zeroconf import (
    BadTypeInNameException,
    Error,
    InterfaceChoice,
    IPVersion,
    ServiceStateChange,
    Zeroconf,
)
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from potluck.errors import PotluckError
from potluck.wire.beacon import SERVICE, Beacon, read_beacon

_LOOK_S = 2.0
"""Seconds until everybody who hears the question has answered: responders wait for a tenth of a second at most, and a
question that was lost is asked again after one."""
_DETAILS_MS = 500
_MOST = 32
"""Whoever floods the network can hide others, but cannot fill this machine's memory or its owner's screen."""


async def browse(seconds: float = _LOOK_S, interfaces: Sequence[str] = ()) -> list[Beacon]:
    """The coordinators that answer within this time, each once, in the order of their models.

    interfaces: their addresses; by default all. Raises PotluckError when the network cannot be asked.
    """
    where = list(interfaces) or InterfaceChoice.All
    try:
        async with AsyncZeroconf(where, ip_version=IPVersion.V4Only) as network:
            details = [detail for name in await _names(network.zeroconf, seconds) if (detail := _detail(name))]
            await asyncio.gather(*(detail.async_request(network.zeroconf, _DETAILS_MS) for detail in details))
    except (OSError, RuntimeError, Error) as error:  # RuntimeError: there is no interface
        raise PotluckError(f"This network cannot be asked for coordinators: {error}.") from error
    return _beacons(details)


async def _names(network: Zeroconf, seconds: float) -> list[str]:
    names: dict[str, None] = {}

    def note(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            names.pop(name, None)
        elif len(names) < _MOST:
            names[name] = None

    browser = AsyncServiceBrowser(network, SERVICE, handlers=[note])
    await asyncio.sleep(seconds)
    await browser.async_cancel()
    return list(names)


def _detail(name: str) -> AsyncServiceInfo | None:
    """What will hold the details of this service; None if its name is of another type, which a liar can send."""
    try:
        return AsyncServiceInfo(SERVICE, name)
    except BadTypeInNameException:
        return None


def _beacons(details: Iterable[AsyncServiceInfo]) -> list[Beacon]:
    read = (
        read_beacon(detail.parsed_addresses(IPVersion.V4Only), detail.port or 0, detail.properties)
        for detail in details
    )
    unique = {beacon.url: beacon for beacon in read if beacon is not None}
    return sorted(unique.values(), key=lambda beacon: (beacon.model, beacon.url))
