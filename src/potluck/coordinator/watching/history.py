"""Figures of the swarms' last minutes, which are noted whether or not anybody looks."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec
from msgspec import Struct

from potluck.coordinator.watching.watched import apart, together

_LOOK_S = 1.0
_MOST = 300

Figures = tuple[int, int, int]
"""The tokens generated so far, the sessions that run, and the requests that wait."""


class Sample(Struct, frozen=True):
    """One sample. ago_s: seconds before now. tokens, streams, waiting: as in the status at that time."""

    ago_s: float
    tokens: int
    streams: int
    waiting: int


class History:
    """The latest samples. looks: returns the current figures, for each model. clock: in seconds."""

    def __init__(self, looks: Sequence[Callable[[], Figures]], clock: Callable[[], float] = time.monotonic) -> None:
        self._looks = looks
        self._clock = clock
        self._noted: deque[tuple[float, list[Figures]]] = deque(maxlen=_MOST)

    def note(self) -> None:
        self._noted.append((self._clock(), [look() for look in self._looks]))

    def samples(self, model: int = 0) -> list[Sample]:
        """The samples of the model with this place, the oldest first."""
        now = self._clock()
        return [Sample(round(now - then, 1), *figures[model]) for then, figures in self._noted]

    def beside(self, status: bytes) -> bytes:
        """The answer of `/status`, with the samples as the field `history` of each model's object."""
        told, idle = apart(status)
        return together([_with(one, self.samples(model)) for model, one in enumerate(told)], idle)

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


def _with(status: bytes, samples: list[Sample]) -> bytes:
    """The object of a model with one field more."""
    return b'%b,"history":%b}' % (status.removesuffix(b"}"), msgspec.json.encode(samples))
