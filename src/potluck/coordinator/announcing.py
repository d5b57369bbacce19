"""Announces the coordinator on its own network by mDNS, if its owner says so."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psutil
from zeroconf import Error, InterfaceChoice, IPVersion, ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from potluck.wire.beacon import SERVICE, Beacon

log = logging.getLogger(__name__)


@asynccontextmanager
async def announced(beacon: Beacon, key: str, interfaces: Sequence[str] = ()) -> AsyncIterator[None]:
    """Announce the coordinator while the block runs. If that cannot be done, its owner is told, and it serves anyway.

    key: the fingerprint of its key, which makes the name unique; it proves nothing.
    interfaces: their addresses. By default the one with the beacon's address, so that no other network hears of it.
    """
    task = asyncio.create_task(_announce(beacon, key, interfaces))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])  # it says goodbye
        if not task.cancelled():
            task.result()


async def _announce(beacon: Beacon, key: str, interfaces: Sequence[str]) -> None:
    where = list(interfaces) or _interfaces(beacon.address)
    try:
        async with AsyncZeroconf(where, ip_version=IPVersion.V4Only) as network:
            await network.async_register_service(_info(beacon, key), allow_name_change=True)
            log.info("This network is told of the coordinator at %s.", beacon.url)
            await asyncio.Event().wait()
    except (OSError, RuntimeError, Error) as error:  # RuntimeError: there is no such interface
        log.warning("The coordinator cannot be announced on this network: %s.", error or type(error).__name__)


def _interfaces(address: str) -> list[str] | InterfaceChoice:
    """The interface with this address, or all where none has it, as behind a router that forwards a port."""
    known = any(address == each.address for addresses in psutil.net_if_addrs().values() for each in addresses)
    return [address] if known else InterfaceChoice.All


def _info(beacon: Beacon, key: str) -> ServiceInfo:
    name = f"potluck-{key}-{beacon.address.replace('.', '-')}"  # copies of a machine have one key
    return ServiceInfo(
        SERVICE,
        f"{name}-{beacon.port}.{SERVICE}",
        beacon.port,
        properties=beacon.texts(),
        server=f"{name}.local.",
        addresses=[socket.inet_aton(beacon.address)],
    )
