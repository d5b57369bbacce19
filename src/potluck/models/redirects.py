"""Decides where a coordinator may send a node: to public servers, but not into the network of the node's owner."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpx

from potluck.errors import ModelError
from potluck.network import proxy_for

_TRANSLATED = IPv6Network("64:ff9b::/96")  # IPv4 as a network that has only IPv6 writes it


def is_public(address: str) -> bool:
    """Whether this IP address belongs to the public internet, not to this machine or its network."""
    ip = _plain(address)
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not getattr(ip, "is_site_local", False)


def is_loopback(address: str) -> bool:
    """Whether this IP address is one of this machine's own."""
    return _plain(address).is_loopback


def _plain(address: str) -> IPv4Address | IPv6Address:
    """The address, or the IPv4 address that hides in it."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv4Address):
        return ip
    if ip in _TRANSLATED:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def is_local(url: httpx.URL) -> bool:
    """Whether the URL names this very machine, without asking anybody who could lie about a name."""
    try:
        return url.host == "localhost" or is_loopback(url.host)
    except ValueError:  # a name
        return False


class Redirects:
    """The places to which the server at `url` may redirect. One on this machine may also redirect to this machine."""

    def __init__(self, url: httpx.URL) -> None:
        self._local = is_local(url)

    def check(self, url: httpx.URL) -> None:
        """Raises ModelError unless the server may redirect there."""
        if self._local and is_local(url):
            return
        if url.scheme != "https" or not all(map(self._may_reach, _addresses(url))):
            raise _refused(url)

    def watch(self, url: httpx.URL) -> Callable[[str, dict[str, Any]], None]:
        """A trace for httpx, which looks where a connection really leads before anything is sent over it.

        A name may have another address by then. Where there is a proxy, it is the proxy that finds the address.
        """
        direct = False

        def look(event: str, info: dict[str, Any]) -> None:
            nonlocal direct
            if event == "connection.connect_tcp.started":
                direct = info["host"] == url.raw_host.decode()
            elif event == "connection.connect_tcp.complete" and direct:
                stream = info["return_value"]
                if not self._may_reach(stream.get_extra_info("server_addr")[0]):
                    stream.close()
                    raise _refused(url)

        return look

    def _may_reach(self, address: str) -> bool:
        return is_public(address) or (self._local and is_loopback(address))


def _addresses(url: httpx.URL) -> list[str]:
    """All addresses of the URL's host; none if only a proxy knows them."""
    try:
        found = socket.getaddrinfo(url.host, url.port or 443, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        if proxy_for(str(url)):
            return []
        raise ModelError(f"The coordinator redirects to {url.host[:100]}, which cannot be found.") from error
    return [str(address[0]) for *_, address in found]


def _refused(url: httpx.URL) -> ModelError:
    return ModelError(
        f"The coordinator redirects to {str(url)[:100]}, but it may redirect only to public https servers."
    )
