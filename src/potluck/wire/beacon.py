"""What a coordinator announces of itself on its own network, and what a machine there believes of it (mDNS)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from urllib.parse import urlsplit

from potluck.errors import PotluckError

SERVICE = "_potluck._tcp.local."
"""The type of service by which coordinators are found."""

_MOST_BYTES = 200
"""The longest text: with its name it must fit into the 255 bytes of an entry."""
_PATH = re.compile(r"(?:/[\w.~-]+)*", re.ASCII)


@dataclass(frozen=True)
class Beacon:
    """A coordinator that announces itself.

    address: of IPv4. path: that of its URL, empty or such as `/swarm`. model, version: words for people.
    private: whether nodes need an invite. secure: whether it speaks TLS.
    """

    address: str
    port: int
    path: str
    model: str
    version: str
    private: bool
    secure: bool

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.address}:{self.port}{self.path}"

    def of(self, model: str) -> Beacon:
        """The beacon of a coordinator that serves this model."""
        return replace(self, model=model)

    def texts(self) -> dict[str, bytes]:
        """What is announced beside the address and the port."""
        texts = {"model": self.model, "version": self.version, "path": self.path}
        flags = {"private": self.private, "tls": self.secure}
        return {
            **{name: text.encode()[:_MOST_BYTES] for name, text in texts.items()},
            **{name: b"1" if flag else b"0" for name, flag in flags.items()},
        }


def beacon_of(url: str, version: str, private: bool) -> Beacon:
    """The beacon of a coordinator with this URL, of which it has yet to be said which model it serves.

    Raises PotluckError when others could not reach it by an address.
    """
    parts = urlsplit(url)
    try:
        address = ip_address(parts.hostname or "")
    except ValueError as error:
        raise PotluckError(
            f"--announce tells others an address, but nodes are to dial {parts.hostname}: "
            "name an address with --host or --url, or leave --announce out."
        ) from error
    if not _is_usable(address) or len(parts.path) > _MOST_BYTES or not _PATH.fullmatch(parts.path):
        raise PotluckError(
            f"{url} cannot be announced, because others do not reach it by a plain IPv4 address: name one with --host."
        )
    secure = parts.scheme == "https"
    return Beacon(str(address), parts.port or (443 if secure else 80), parts.path, "", version, private, secure)


def read_beacon(addresses: Iterable[str], port: int, texts: Mapping[bytes, bytes | None]) -> Beacon | None:
    """What to believe of an announcement, which anybody on the network can send; None if it is of no use.

    Its URL is made of the address and the port, and of a path only if that is plain.
    """
    usable = [address for address in addresses if _is_usable(ip_address(address))]
    path = _text(texts, b"path")
    if not usable or not 0 < port < 1 << 16 or not _PATH.fullmatch(path):
        return None
    return Beacon(
        min(usable),
        port,
        path,
        _text(texts, b"model"),
        _text(texts, b"version"),
        private=texts.get(b"private") != b"0",  # whoever does not say so is asked for an invite, which may be left out
        secure=texts.get(b"tls") == b"1",
    )


def _is_usable(address: object) -> bool:
    """Whether it may be another machine's address."""
    return isinstance(address, IPv4Address) and not (
        address.is_loopback or address.is_multicast or address.is_unspecified or address.is_reserved
    )


def _text(texts: Mapping[bytes, bytes | None], name: bytes) -> str:
    """A stranger's text, without anything that a terminal would obey, and cut to a reasonable length."""
    text = (texts.get(name) or b"")[:_MOST_BYTES].decode("utf-8", "ignore")
    return "".join(filter(str.isprintable, text)).strip()
