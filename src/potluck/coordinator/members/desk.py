"""Threads for one kind of work on the database, so that no other kind makes it wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Desk:
    """A desk with some threads of its own, which start when there is work for them. name: of its threads."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"potluck-{name}")

    async def ask(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """The work's result. Work that has begun goes on when the caller is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **named))

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
