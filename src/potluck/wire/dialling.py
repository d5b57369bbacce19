"""Opens web-sockets to coordinators, and tells what may pass by itself from an address that is wrong."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI

from potluck.errors import LinkClosed, NoCoordinator
from potluck.network import socket_proxy, tls_fault
from potluck.wire.codec import MAX_FRAME

_OLD = re.compile(r"HTTP/1\.0 (\d{3})")
"""The status of a server that speaks too old a version for web-sockets, as websockets quotes it."""
_MAY_PASS = (408, 425, 429)
"""The statuses below 500 with which a server or a proxy asks for patience."""
_LOOK_S = 5.0
"""Seconds in which a server must show that it speaks TLS."""
_LONGEST = 200
"""The most characters of a stranger's words that are repeated."""


async def open_socket(url: str) -> ClientConnection:
    """Open `ws://…`. Raises LinkClosed with the reason when nobody answers there now, NoCoordinator when what answers
    is none.
    """
    try:
        # Hidden states do not compress; the transport's own buffers bound what is in flight.
        return await connect(
            url, compression=None, max_size=MAX_FRAME, ping_interval=10, ping_timeout=60, proxy=socket_proxy(url)
        )
    except InvalidStatus as error:
        raise _refusal(error.response.status_code, error.response.body) from error
    except InvalidURI as error:
        if error.uri == url:
            raise LinkClosed(str(error)) from error
        raise NoCoordinator(f"it redirects to {_printable(error.uri)}, so give that address if it is right") from error
    except ssl.SSLError as error:
        fault = tls_fault(error)
        raise NoCoordinator(fault) if fault else LinkClosed(str(error)) from error
    except (OSError, TimeoutError, InvalidHandshake, ValueError) as error:
        # ValueError: what the standard library makes of an impossible host name or port.
        if old := _OLD.search(str(error.__cause__)):
            raise _refusal(int(old[1])) from error
        if isinstance(error, InvalidMessage) and url.startswith("ws://") and await _speaks_tls(url):
            raise NoCoordinator("TLS is spoken there, so write https:// instead of http://") from error
        raise LinkClosed(str(error) or type(error).__name__) from error


def _refusal(status: int, body: bytes | bytearray | None = None) -> LinkClosed | NoCoordinator:
    """What a server means that answers with this instead of a web-socket."""
    if status >= 500 or status in _MAY_PASS:
        return LinkClosed(f"the server there answers {status}{_told(body)}")
    if status < 300:
        return NoCoordinator(f"a web page answers there, with {status}: check the address, or sign in to this network")
    return NoCoordinator(f"the server there answers {status}{_told(body)}: check the address")


def _told(body: bytes | bytearray | None) -> str:
    """The server's own words, if it speaks as a coordinator does."""
    try:
        return f" ({_printable(json.loads(body or b'')['error']['message']).rstrip('.')})"
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _printable(text: str) -> str:
    return "".join(filter(str.isprintable, text))[:_LONGEST]


async def _speaks_tls(url: str) -> bool:
    """Whether the server begins to speak TLS, whoever it is."""
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    place = urlsplit(url)
    try:
        async with asyncio.timeout(_LOOK_S):
            _, writer = await asyncio.open_connection(place.hostname, place.port or 80, ssl=anybody)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True
