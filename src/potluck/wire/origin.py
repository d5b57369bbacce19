"""Reads from a coordinator's URL where the coordinator is."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from potluck.errors import WireError

_PORTS = {"http": 80, "https": 443}


def origin(url: str) -> str:
    """`scheme://host:port`, the same for every spelling of an http(s) URL. Raises WireError when the text is no URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:  # brackets that do not match, a port that is no number
        raise WireError(f"{url[:200]!r} is not a URL.") from error
    if parts.scheme not in _PORTS or not host:
        raise WireError(f"{url[:200]!r} is not the URL of a coordinator.")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port or _PORTS[parts.scheme]}"


def is_loopback(url: str) -> bool:
    """Whether the URL names this very machine."""
    address = _address(url)
    return address is not None and address.is_loopback


def leads_here(url: str) -> bool:
    """Whether a connection to the URL ends at this very machine, which on some systems 0.0.0.0 leads to as well."""
    address = _address(url)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _address(url: str) -> IPv4Address | IPv6Address | None:
    """The URL's IP address; None for a name that may stand for any."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        address = ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
