"""The address at which a server of this machine listens, and the one by which others reach it."""

from __future__ import annotations

import socket

from potluck.errors import PotluckError


def listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise PotluckError(f"Cannot listen on {host} port {port}: {error.strerror or error}.") from error


def reachable(host: str) -> str:
    """The address to tell others. When listening on all addresses, it is that of the interface that leads out."""
    if host not in ("0.0.0.0", "::"):
        return f"[{host}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: no packet is sent
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
