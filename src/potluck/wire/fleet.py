"""What a coordinator tells nodes about the others of its fleet, and the check of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from potluck.errors import PotluckError, WireError
from potluck.network import checked_url
from potluck.types import Coordinator
from potluck.wire.message import Message

MOST_COORDINATORS = 64
"""The most coordinators of a fleet besides the one that tells of them."""

_PLAIN = re.compile(r"https?://[A-Za-z0-9._~:/%\[\]-]+")
"""The characters of a URL that people may be shown, and of which nothing is added to a request."""
_KEY_BYTES = 32
_LONGEST_URL = 300
_SHOWN = 80
"""The most characters of a wrong URL that are repeated."""


class Fleet(Message, frozen=True, tag="fleet"):
    """The fleet has changed.

    coordinators: all other coordinators where this node may serve, in place of those that it knows.
    """

    coordinators: tuple[Coordinator, ...]


class Redirect(Message, frozen=True, tag="redirect"):
    """Go to this coordinator now, because it lacks layers. What the node had here has been handed over, and the socket
    closes after this message.

    url, key: the other coordinator's.
    """

    url: str
    key: bytes


def check_fleet(coordinators: Sequence[Coordinator]) -> None:
    """Raises WireError when these cannot be the other coordinators of a fleet."""
    if len(coordinators) > MOST_COORDINATORS:
        raise WireError(f"The coordinator names {len(coordinators)} others, of which there may be {MOST_COORDINATORS}.")
    for each in coordinators:
        _check_coordinator(each)


def _check_coordinator(coordinator: Coordinator) -> None:
    """Raises WireError unless the URL is written as an owner's would be kept, and the key can be one."""
    url, key = coordinator.url, coordinator.key
    if len(key) != _KEY_BYTES:
        raise WireError(f"A coordinator's key has {len(key)} bytes instead of {_KEY_BYTES}.")
    if not _is_url(url):
        raise WireError(f"The coordinator names one at {url[:_SHOWN]!r}, which is not the URL of a coordinator.")


def _is_url(url: str) -> bool:
    """Whether the text is a plain http(s) URL without a name, a query or a fragment, as `checked_url` returns it."""
    if len(url) > _LONGEST_URL or not _PLAIN.fullmatch(url):
        return False
    try:
        return checked_url(url) == url
    except PotluckError:
        return False
