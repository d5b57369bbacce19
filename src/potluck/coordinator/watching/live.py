"""Tells the status as it changes, in server-sent events that are made once for all listeners."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from potluck.coordinator.event_stream import EventStream
from potluck.coordinator.watching.watched import together
from potluck.errors import RequestError

_LOOK_S = 1.0
_KEEP_LOOKS = 15
"""After this many looks at which nothing changed the status is sent again, so that no proxy takes the line for dead."""
_LONGEST_S = 600.0
"""Seconds after which a listener must ask again, with a key that is still valid."""
_MOST_LISTENERS = 256
_MOST_STRANGERS = _MOST_LISTENERS // 2
"""The listeners of callers without an account, who may have any number of addresses."""
_MOST_OF_ONE = 8
"""The listeners of one caller: as many as one has windows."""


class Watcher(Protocol):
    """A caller, who is equal to itself at its next request."""

    @property
    def stranger(self) -> bool:
        """Whether it has no account."""


class _Everybody:
    """All callers, where there are no accounts."""

    stranger = False


_EVERYBODY = _Everybody()


class Live:
    """Sends the status to all listeners.

    tells: returns the status as JSON on one line, for each model. It is called once a second while anybody listens.
    idle: returns the nodes that wait, as JSON; None where no models are offered.
    greet: makes of it what new listeners receive first. whose: says whose listener a request is for.
    """

    def __init__(
        self,
        tells: Sequence[Callable[[], bytes]],
        greet: Callable[[bytes], bytes] = bytes,
        whose: Callable[[Request], Watcher] = lambda _: _EVERYBODY,
        idle: Callable[[], bytes] | None = None,
    ) -> None:
        self._tells = tells
        self._greet = greet
        self._whose = whose
        self._idle = idle
        self._told = b""
        self._quiet = 0
        self._news = asyncio.Event()
        self._listeners = 0
        self._places: Counter[Watcher] = Counter()
        self._looking: asyncio.Task[None] | None = None
        self._stopped = False

    async def events(self, request: Request) -> Response:
        """GET /status/events"""
        whose = self._whose(request)
        if self._places[whose] >= _MOST_OF_ONE:
            message = f"More than {_MOST_OF_ONE} programs or pages of yours watch this swarm now."
            raise RequestError(message, status=429, retry_s=_LOOK_S)
        strangers = sum(count for one, count in self._places.items() if one.stranger)
        if self._places.total() >= _MOST_LISTENERS or (whose.stranger and strangers >= _MOST_STRANGERS):
            raise RequestError("Too many people watch this swarm now.", status=429, retry_s=_LOOK_S)
        self._places[whose] += 1
        return EventStream(self.listen(), partial(self._leave, whose))

    def _leave(self, whose: Watcher) -> None:
        self._places[whose] -= 1
        self._places += Counter()  # which drops those who have none

    async def listen(self) -> AsyncGenerator[bytes, None]:
        """The newest status each time. A listener that reads slowly misses those in between."""
        self._listeners += 1
        deadline = asyncio.get_running_loop().time() + _LONGEST_S
        try:
            if self._looking is None:
                self._look()
                self._looking = asyncio.create_task(self._keep_looking())
            news, event = self._news, self._greet(self._told)
            while not self._stopped and asyncio.get_running_loop().time() < deadline:
                yield b"data: " + event + b"\n\n"
                await news.wait()
                news, event = self._news, self._told
        finally:
            self._listeners -= 1

    async def _keep_looking(self) -> None:
        try:
            while self._listeners and not self._stopped:
                await asyncio.sleep(_LOOK_S)
                self._look()
        finally:
            self._looking = None

    def _look(self) -> None:
        told = together([tell() for tell in self._tells], self._idle() if self._idle is not None else None)
        self._quiet = 0 if told != self._told else self._quiet + 1
        if self._quiet % _KEEP_LOOKS == 0:
            self._told = told
            self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def stop(self) -> None:
        """Stop, without waiting for listeners, because the coordinator is stopping."""
        self._stopped = True
        self._wake()
