"""Threads for one kind of work on the database, so that no other kind makes it wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

from potluck.errors import StoreError

log = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""Seconds in which a database that is away may come back before a request fails: a restart takes a few."""

_PAUSE_S = 0.25
"""Seconds between two tries."""

P = ParamSpec("P")
T = TypeVar("T")


class Desk:
    """A desk with some threads of its own, which start when there is work for them. name: of its threads."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"potluck-{name}")
        self._is_away = False
        """Whether the database was away when it was last asked by `ask_until`."""

    async def ask(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """The work's result. Work that has begun goes on when the caller is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **named))

    async def ask_until(self, deadline: float, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """The work's result. Where it fails because the database is away, it is tried again until the loop's clock
        reaches the deadline, so it must be work that can be done twice.

        Raises StoreError, that of the last try.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    result = await self.ask(work, *args, **named)
            except TimeoutError as late:
                raise StoreError("The database does not answer.", is_away=True) from late
            except StoreError as error:
                self._note(error)
                if not error.is_away or loop.time() + _PAUSE_S > deadline:
                    raise
                await asyncio.sleep(_PAUSE_S)
            else:
                self._note(None)
                return result

    def _note(self, error: StoreError | None) -> None:
        """Log when the database goes away, and when it is back: not for each who asks."""
        was_away, self._is_away = self._is_away, error is not None and error.is_away
        if self._is_away and not was_away:
            log.error("%s Requests wait for it.", error)
        elif was_away and not self._is_away:
            log.info("The database is back.")

    def close(self) -> None:
        """Wait for work that has begun, and drop the rest."""
        self._threads.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Desks:
    """The desks of one coordinator. keys: for all who ask with an API key, so that nobody else's work is done there."""

    keys: Desk = field(default_factory=partial(Desk, "keys", 4))
    door: Desk = field(default_factory=partial(Desk, "door"))
    books: Desk = field(default_factory=partial(Desk, "books"))
    owner: Desk = field(default_factory=partial(Desk, "owner"))
    accounts: Desk = field(default_factory=partial(Desk, "accounts"))

    def close(self) -> None:
        for desk in (self.keys, self.door, self.books, self.owner, self.accounts):
            desk.close()
