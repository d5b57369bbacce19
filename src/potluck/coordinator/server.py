"""The web server under the application, with TLS if the owner wants it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from potluck.errors import PotluckError
from potluck.platform import ending_signals, handling
from potluck.webserver.guard import Guard
from potluck.webserver.seats import Seats
from potluck.webserver.server import BoundedServer, bounded_config, most_connections
from potluck.wire.codec import MAX_FRAME

_MOST_STRANGERS = 512
"""The most connections of clients that have not shown a key, and of nodes that were not admitted."""
_MOST_OF_HOUSEHOLD = 256
"""The most of these from one address, or from one network of IPv6."""


class _Server(BoundedServer):
    """A server that Ctrl-C and SIGTERM end cleanly: answers first, then sockets, and no signal is raised again.

    stops: what ends the work that would keep the sockets open.
    """

    def __init__(self, config: uvicorn.Config, guard: Guard, stops: Sequence[Callable[[], None]]) -> None:
        super().__init__(config, guard)
        self._stops = stops

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with handling({sign: partial(self.handle_exit, sign, None) for sign in ending_signals()}):
            yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for stop in self._stops:
            stop()
        await super().shutdown(sockets)


@dataclass(frozen=True)
class Tls:
    """PEM files: the certificate, followed by those that lead to its authority, and its private key."""

    certificate: Path
    key: Path


def make_server(app: Starlette, tls: Tls | None = None, proxies: Sequence[str] = ()) -> uvicorn.Server:
    """A server for the application. It pings nodes, so that one whose laptop closed is missed within half a minute.

    proxies: addresses and networks from which many clients come.

    Raises PotluckError when the files for TLS are unusable.
    """
    most = most_connections()
    shared = partial(_is_within, [ip_network(one, strict=False) for one in proxies])
    guard = Guard(Seats(most, min(_MOST_STRANGERS, most // 2), min(_MOST_OF_HOUSEHOLD, most // 4), shared))
    config = bounded_config(
        app,
        ws_max_size=MAX_FRAME,
        ws_per_message_deflate=False,
        ws_ping_interval=10.0,
        ws_ping_timeout=20.0,
        timeout_graceful_shutdown=2,
        lifespan="on",
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    try:
        config.load()
    except OSError as error:  # OpenSSL's errors are OSErrors
        raise PotluckError(f"TLS cannot be spoken with these files: {error.strerror or error}.") from error
    return _Server(config, guard, app.state.stops)


def _is_within(networks: Sequence[IPv4Network | IPv6Network], home: str) -> bool:
    """Whether a household lies within one of the networks."""
    if not home:
        return False
    own = ip_network(home)
    return any(own.version == one.version and own.overlaps(one) for one in networks)
