"""Leases, by which one coordinator at a time may do something. They lie in NATS, and end by themselves."""

from __future__ import annotations

from dataclasses import dataclass

from potluck.coordinator.fleet.bus import Bucket, Bus

LEASES = Bucket("potluck-leases", ttl_s=10.0)
"""A lease that is not renewed within ten seconds is free."""


@dataclass(frozen=True)
class Lease:
    """A lease of this name. holder: the public key of the coordinator that wants it."""

    bus: Bus
    name: str
    holder: bytes

    async def hold(self) -> bool:
        """Take the lease, or renew it. Returns whether this coordinator has it now. Raises BusAway."""
        found = await self.bus.get(LEASES, self.name)
        if found is None:
            return await self.bus.create(LEASES, self.name, self.holder)
        holder, revision = found
        return holder == self.holder and await self.bus.replace(LEASES, self.name, self.holder, revision)
