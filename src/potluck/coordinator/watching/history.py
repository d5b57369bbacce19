"""Figures of the swarm's last minutes, which are noted whether or not anybody looks."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import msgspec
from msgspec import Struct

_LOOK_S = 1.0
_MOST = 300


class Sample(Struct, frozen=True):
    """One sample. ago_s: seconds before now. tokens, streams, waiting: as in the status at that time."""

    ago_s: float
    tokens: int
    streams: int
    waiting: int


class History:
    """The latest samples. look: returns the current tokens, streams and waiting requests. clock: in seconds."""

    def __init__(self, look: Callable[[], tuple[int, int, int]], clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._noted: deque[tuple[float, tuple[int, int, int]]] = deque(maxlen=_MOST)

    def note(self) -> None:
        self._noted.append((self._clock(), self._look()))

    def samples(self) -> list[Sample]:
        """The samples, the oldest first."""
        now = self._clock()
        return [Sample(round(now - then, 1), *figures) for then, figures in self._noted]

    def beside(self, status: bytes) -> bytes:
        """The status, a JSON object, with the samples as its field `history`."""
        return b"%b,%b}" % (status.removesuffix(b"}"), b'"history":' + msgspec.json.encode(self.samples()))

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Take a sample every second while the block runs."""
        noting = asyncio.create_task(self._note_again_and_again())
        try:
            yield
        finally:
            noting.cancel()
            with suppress(asyncio.CancelledError):
                await noting

    async def _note_again_and_again(self) -> None:
        while True:
            self.note()
            await asyncio.sleep(_LOOK_S)
