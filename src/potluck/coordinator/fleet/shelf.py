"""Keeps answers that are under way for a while, where every coordinator of the fleet finds them."""

from __future__ import annotations

from dataclasses import dataclass

from potluck.coordinator.fleet.bus import Bucket, Bus

ANSWERS = Bucket("potluck-answers", ttl_s=600.0, max_bytes=256 << 20)
"""Ten minutes after it was last written, an answer can be continued no more. Whoever asks for many long ones must not
take the room of records.
"""


@dataclass(frozen=True)
class FleetShelf:
    """The shelf in JetStream. Its values are encrypted before they come here."""

    bus: Bus

    async def put(self, name: str, value: bytes) -> None:
        """Keep a value of up to 1 MB in the place of an older one. Raises BusAway."""
        await self.bus.put(ANSWERS, name, value)

    async def get(self, name: str) -> bytes | None:
        """The value with this name, if it is kept. Raises BusAway."""
        found = await self.bus.get(ANSWERS, name)
        return None if found is None else found[0]
