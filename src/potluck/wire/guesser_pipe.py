"""Starts the process of a small model, and carries frames to and from it: beside a coordinator, or on a node."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from potluck.errors import LinkClosed, WireError
from potluck.wire.guessing import LENGTH_BYTES, MOST_TOLD, with_length

_END_S = 1.0


class Pauses:
    """The pauses before a process is started again, in seconds. They double each time, and begin anew when it has lived
    for the longest one.
    """

    def __init__(self, first_s: float = 1.0, longest_s: float = 300.0) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def after(self, lived_s: float) -> float:
        """The next pause, after a life of so many seconds."""
        pause_s = self._first_s if lived_s > self._longest_s else self._next_s
        self._next_s = min(2 * pause_s, self._longest_s)
        return pause_s


class GuesserPipe:
    """The pipes of a process that runs."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self._to = process.stdin
        self._from = process.stdout

    async def receive(self) -> bytes:
        """The next message. If this is cancelled between its length and the rest, nothing more can be understood.

        Raises LinkClosed when the process has ended, WireError when it says too much at once.
        """
        try:
            size = int.from_bytes(await self._from.readexactly(LENGTH_BYTES), "big")
            if size > MOST_TOLD:
                raise WireError(f"it says {size} bytes at once")
            return await self._from.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise LinkClosed("its process has ended") from error

    def send(self, message: bytes | memoryview) -> None:
        """Send a message, unless nobody hears it any more. This does not wait."""
        if not self._to.is_closing():
            self._to.write(with_length(message))


@asynccontextmanager
async def guesser_process(command: Sequence[str]) -> AsyncIterator[GuesserPipe]:
    """Run the process during the block. Raises OSError when it cannot be started."""
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    try:
        yield GuesserPipe(process)
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    """End the process, which does so by itself when nobody can speak to it any more, unless it hangs."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_END_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
