"""uvicorn's server with a guard, and with room for as many connections as the system allows."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from potluck.webserver.guard import Guard
from potluck.webserver.http import BoundedHttp
from potluck.webserver.seats import Seats

_SWEEP_TICKS = 5
"""uvicorn's ticks, of 0.1 s each, between two looks at the connections."""

_RESERVED = 128
"""Descriptors for files, the database and children."""
_MOST = 1 << 16


class BoundedServer(uvicorn.Server):
    """A server whose guard looks at all connections twice a second."""

    def __init__(self, config: uvicorn.Config, guard: Guard) -> None:
        super().__init__(config)
        self._guard = guard

    async def on_tick(self, counter: int) -> bool:
        if counter % _SWEEP_TICKS == 0:
            self._guard.sweep()
        return await super().on_tick(counter)


def bounded_config(app: ASGIApp, guard: Guard, **options: Any) -> uvicorn.Config:
    """uvicorn's configuration for an application behind this guard. Web-sockets are taken unless ws is "none"."""
    http = partial(BoundedHttp, guard=guard)
    options = {"ws": "websockets-sansio", "log_config": None, "access_log": False, "proxy_headers": False, **options}
    return uvicorn.Config(app, http=http, **options)  # type: ignore[arg-type]


def make_guard(seats: Seats) -> Guard:
    return Guard(seats, time.monotonic)


def most_connections() -> int:
    """The number of connections that this process may have, after raising its limit as far as the system allows."""
    if sys.platform == "win32":
        return _MOST
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return (_MOST if soft == resource.RLIM_INFINITY else min(soft, _MOST)) - _RESERVED
