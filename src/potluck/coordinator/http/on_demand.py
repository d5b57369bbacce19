"""The service of an offered model, which is made when a request first needs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from potluck.coordinator.http.service import Service
from potluck.coordinator.sessions.demand import ModelState
from potluck.errors import PotluckError, Unavailable

log = logging.getLogger(__name__)

_PATIENCE_S = 60.0
"""Seconds that a request waits until the model's texts can be read. The first time, all weights are read for it."""


class OnDemandService:
    """An offered model. names: all of them, the one that answers say first. context: the most positions of a session.

    state: returns that of the model. make: makes its service. patience_s: how long a request waits for that.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        context: int,
        created: int,
        state: Callable[[], ModelState],
        make: Callable[[], Awaitable[Service]],
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self.names = names
        self.context = context
        self.created = created
        self.state = state
        self._make = make
        self._patience_s = patience_s
        self._making: asyncio.Task[Service] | None = None

    async def ready(self) -> Service:
        """The service. Raises Unavailable when it cannot be made, or not in time; it is then made further."""
        if self._making is None:
            self._making = asyncio.create_task(self._made())
            self._making.add_done_callback(_heard)  # even if nobody waits for it any more
        try:
            async with asyncio.timeout(self._patience_s):
                return await asyncio.shield(self._making)
        except TimeoutError as error:
            raise Unavailable(
                f"The weights of {self.names[0]} are read for the first time: ask again later."
            ) from error

    async def _made(self) -> Service:
        try:
            return await self._make()
        except PotluckError as error:
            self._making = None  # the next request tries again
            log.error("%s cannot be loaded: %s", self.names[0], error)
            raise Unavailable(f"{self.names[0]} cannot be loaded: {error}") from error
        except Exception as error:
            self._making = None
            log.exception("%s cannot be loaded.", self.names[0])
            raise Unavailable(f"{self.names[0]} cannot be loaded: the coordinator's log says why.") from error


def _heard(task: asyncio.Task[Service]) -> None:
    """Take note of the task's exception, which the log has told already."""
    if not task.cancelled():
        task.exception()
