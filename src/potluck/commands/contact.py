"""Reaches a coordinator for `potluck doctor`: who answers there, how fast, with which version and by which clock."""

from __future__ import annotations

import ssl
import time
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct

from potluck.client import split_invite
from potluck.commands.terminal import client_of
from potluck.errors import PotluckError, ProxyFault
from potluck.network import http_client, tls_fault

_PATIENCE_S = 10.0
_Answer = TypeVar("_Answer", bound=Struct)

_LONGEST = 200
"""The most characters of a stranger's message that are shown."""


class NoUrl(Struct, frozen=True, tag="no URL", tag_field="coordinator"):
    """The text is not a coordinator's URL. It is not repeated here, because it may contain an invite."""


class Unreachable(Struct, frozen=True, tag="unreachable", tag_field="coordinator"):
    """Nobody answers. reason: in the words of the network library."""

    url: str
    reason: str


class Stranger(Struct, frozen=True, tag="stranger", tag_field="coordinator"):
    """A server answers, but not as a coordinator does. message: the reason that it gives, if any."""

    url: str
    status: int
    message: str


class Coordinator(Struct, frozen=True, tag="reached", tag_field="coordinator"):
    """A coordinator that answers. round_trip_s: of one request.

    ahead_s: this machine's clock minus the coordinator's; None if it does not send its time.
    version: that of its Potluck; None if it tells this only to callers with a key.
    """

    url: str
    round_trip_s: float
    ahead_s: float | None
    version: str | None


Contact = NoUrl | Unreachable | Stranger | Coordinator


def contact(text: str, key: str) -> Contact:
    """Contact a coordinator. text: its URL, with or without an invite. key: an API key; "" means the owner's, if it is
    here.
    """
    try:
        url, _ = split_invite(text)
    except PotluckError:
        return NoUrl()
    try:
        with http_client(base_url=url, timeout=_PATIENCE_S, verify=ssl.create_default_context()) as http:
            return _ask(http, client_of(url, key).key, without_credentials(url))
    except ProxyFault as error:
        return Unreachable(without_credentials(url), str(error).rstrip("."))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return Unreachable(
            without_credentials(url), (tls_fault(error) or str(error)).replace(url, without_credentials(url))
        )


def _ask(http: httpx.Client, key: str, shown: str) -> Contact:
    """Ask the coordinator. The first request is without the key, and the last one, when the line exists, is timed."""
    health = http.get("/health")
    if _decoded(health, _Health).status != "ok":
        return Stranger(shown, health.status_code, _printable(_decoded(health, _Refusal).error.message))
    described = http.get("/openapi.json", headers={"Authorization": f"Bearer {key}"} if key else {})
    info = _decoded(described, _Description).info
    if described.is_success and info.title != "Potluck":
        return Stranger(shown, described.status_code, "")
    sent_s = time.time()
    date = http.get("/health").headers.get("date")
    received_s = time.time()
    return Coordinator(shown, received_s - sent_s, ahead(date, sent_s, received_s), _printable(info.version) or None)


def ahead(date: str | None, sent_s: float, received_s: float) -> float | None:
    """The seconds by which this machine's clock is ahead of the one that wrote the date of an answer.

    date: that of the header, in full seconds. sent_s, received_s: Unix time here. None if there is no such date.
    """
    try:
        told_s = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None
    return (sent_s + received_s) / 2 - (told_s + 0.5)


def without_credentials(url: str) -> str:
    """The URL without name, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class _Health(Struct, frozen=True):
    status: str = ""


class _Error(Struct, frozen=True):
    message: str = ""


class _Refusal(Struct, frozen=True):
    error: _Error = _Error()


class _Info(Struct, frozen=True):
    title: str = ""
    version: str = ""


class _Description(Struct, frozen=True):
    info: _Info = _Info()


def _decoded(reply: httpx.Response, kind: type[_Answer]) -> _Answer:
    """The reply's JSON, or the empty answer if it is of another kind."""
    try:
        return msgspec.json.decode(reply.content, type=kind)
    except msgspec.DecodeError:
        return kind()


def _printable(text: str) -> str:
    """A stranger's text, without anything that a terminal would obey, and cut to a reasonable length."""
    return "".join(filter(str.isprintable, text))[:_LONGEST]
