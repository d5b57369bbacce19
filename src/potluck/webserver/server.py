"""uvicorn's server with a guard, and with room for as many connections as the system allows."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from potluck.platform import most_descriptors
from potluck.webserver.guard import Guard
from potluck.webserver.http import BoundedHttp

_SWEEP_TICKS = 5
"""uvicorn's ticks, of 0.1 s each, between two looks at the connections."""

_TLS_S = 10.0
"""Seconds for the handshake of TLS."""
_LAST_WORDS_S = 300.0
"""Seconds in which a slow client may read the rest of its last answer over TLS."""

_RESERVED = 128
"""Descriptors for files, the database and children."""
_MOST = 1 << 16


class BoundedServer(uvicorn.Server):
    """A server on sockets that listen already, whose guard looks at all connections twice a second."""

    def __init__(self, config: uvicorn.Config, guard: Guard) -> None:
        super().__init__(config)
        self._guard = guard
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # strangers can cause any number of its warnings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen as uvicorn does, but leave clients less time for the handshake of TLS, before which nothing is known
        of them.
        """
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        config, loop = self.config, asyncio.get_running_loop()
        bounded = partial(BoundedHttp, guard=self._guard, config=config)
        protocol = partial(bounded, server_state=self.server_state, app_state=self.lifespan.state)
        hello_s, last_words_s = (None, None) if config.ssl is None else (_TLS_S, _LAST_WORDS_S)
        self.servers = [
            await loop.create_server(
                protocol,
                sock=one,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=hello_s,
                ssl_shutdown_timeout=last_words_s,
            )
            for one in sockets or ()
        ]
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        if counter % _SWEEP_TICKS == 0:
            self._guard.sweep()
        return await super().on_tick(counter)


def bounded_config(app: ASGIApp, **options: Any) -> uvicorn.Config:
    """uvicorn's configuration for an application. Web-sockets are taken unless ws is "none"."""
    options = {"ws": "websockets-sansio", "log_config": None, "access_log": False, "proxy_headers": False, **options}
    return uvicorn.Config(app, **options)


def most_connections() -> int:
    """The number of connections that this process may have, after raising its limit as far as the system allows."""
    return most_descriptors(_MOST) - _RESERVED
