"""Keeps the process of a small model beside the coordinator, and starts it again when it has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from potluck.coordinator.generation.small_model import GuesserLost, SmallModel
from potluck.errors import LinkClosed, WireError
from potluck.wire.guesser_pipe import GuesserPipe, Pauses, guesser_process
from potluck.wire.guessing import FromGuesser, decode_from_guesser, encode

log = logging.getLogger(__name__)


class GuesserProcess:
    """The process of one small model while it is `kept`. command: runs it. pauses: those before it is started again."""

    def __init__(self, model: SmallModel, command: Sequence[str], pauses: Pauses | None = None) -> None:
        self.model = model
        self._command = command
        self._pauses = pauses or Pauses()
        self.pid: int | None = None
        """That of the process, while there is one."""

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Run the process meanwhile, and start it again when it has ended."""
        keeper = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper

    async def _keep(self) -> None:
        clock, name = asyncio.get_running_loop().time, self.model.name
        while True:
            began = clock()
            reason = await self._life()
            pause_s = self._pauses.after(clock() - began)
            log.warning("%s does not guess now, because %s. It is tried again in %.0f s.", name, reason, pause_s)
            await asyncio.sleep(pause_s)

    async def _life(self) -> str:
        """Run one process until it ends. Returns why it did, as the end of a sentence."""
        try:
            async with guesser_process(self._command) as pipe:
                self.pid = pipe.pid
                await self.model.converse(lambda: _received(pipe), lambda message: pipe.send(encode(message)))
        except (GuesserLost, LinkClosed, WireError) as error:
            return str(error)
        except OSError as error:
            return f"it cannot be started ({error.strerror or error})"
        finally:
            self.pid = None
        raise AssertionError("A small model ended without a reason.")


async def _received(pipe: GuesserPipe) -> FromGuesser:
    return decode_from_guesser(await pipe.receive())
