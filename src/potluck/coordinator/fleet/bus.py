"""The connection over which the coordinators of a fleet talk: subjects, and buckets of keys and values."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

Heard = Callable[[str, bytes], None]
"""Is called with the subject, or the name in the bucket, and what came."""


@dataclass(frozen=True)
class Bucket:
    """A bucket of keys and values. ttl_s: seconds after which a value is gone unless it is renewed; None: never.

    max_bytes: those of all values, beyond which nothing more is kept; None: as many as the server has room for.
    """

    name: str
    ttl_s: float | None = None
    max_bytes: int | None = None


class Bus(Protocol):
    """The connection, which is made again whenever it is lost. Whatever fails is raised as BusAway.

    on_up: is called when the connection is there, for the first time and again.
    """

    on_up: Callable[[], None]

    @property
    def is_up(self) -> bool: ...

    @property
    def fault(self) -> str:
        """Why there is no connection, as the end of a sentence; empty if there is one."""

    def connected(self) -> AbstractAsyncContextManager[None]:
        """Keep the connection while the block runs. It is made in the background."""

    def listen(self, subject: str, heard: Heard) -> None:
        """Hear this subject from the time at which there is a connection."""

    def watch(self, bucket: Bucket, beginning: str, heard: Heard) -> None:
        """Hear all values that are put into a bucket under names that begin so."""

    async def tell(self, subject: str, value: bytes) -> None:
        """Send a value to all who listen now."""

    async def put(self, bucket: Bucket, name: str, value: bytes) -> None:
        """Keep a value in the place of an older one."""

    async def create(self, bucket: Bucket, name: str, value: bytes) -> bool:
        """Keep a value if there is none. Returns whether it is kept."""

    async def replace(self, bucket: Bucket, name: str, value: bytes, revision: int) -> bool:
        """Replace the value of this revision. Returns False if another one is there by now."""

    async def get(self, bucket: Bucket, name: str) -> tuple[bytes, int] | None:
        """A value and its revision; None if there is none."""

    async def names(self, bucket: Bucket) -> list[str]:
        """The names of all values."""
