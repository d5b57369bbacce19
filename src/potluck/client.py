"""A small client of a coordinator's HTTP API, for the command line."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from potluck.errors import PotluckError

Json = dict[str, Any]

_ANSWER_S = httpx.Timeout(10.0, read=None)
"""A slow swarm may take minutes a token; connecting takes seconds."""

_SCHEMES = {"": "http", "ws": "http", "wss": "https"}


def checked_url(text: str) -> str:
    """The coordinator's URL without a trailing slash; `http://` is added where there is no scheme.

    `ws://` and `wss://` are taken for what they run on.

    Raises PotluckError when it is no such URL.
    """
    scheme, _, rest = text.rpartition("://")
    url = f"{_SCHEMES.get(scheme, scheme)}://{rest}".rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is no number
        usable = False
    if not usable:
        raise PotluckError(f"{text!r} is not a coordinator's URL: write it as http://192.168.1.5:8470.")
    return url


def split_invite(text: str) -> tuple[str, str]:
    """The coordinator's URL, and the invite after its `#`, or "". Raises PotluckError as `checked_url` does."""
    url, _, invite = text.partition("#")
    return checked_url(url), invite


def get_status(url: str) -> Json:
    """`GET /status`. Raises PotluckError when no coordinator answers there."""
    with _readable_errors(url):
        reply = httpx.get(f"{url}/status", timeout=10.0, verify=_trust())
        _check(reply)
        status: Json = reply.json()
        if not isinstance(status, dict) or "served" not in status:
            raise PotluckError(f"{url} answers, but it is no Potluck coordinator.")
        return status


def get_trace(url: str, **which: int) -> Json:
    """`GET /trace`: the latest hops of all sessions or of one, without the first `after` so far."""
    with _readable_errors(url):
        reply = httpx.get(f"{url}/trace", params=which, timeout=60.0, verify=_trust())
        _check(reply)
        trace: Json = reply.json()
        if not isinstance(trace, dict) or "traceEvents" not in trace:
            raise PotluckError(f"{url} answers, but it is no Potluck coordinator.")
        return trace


def complete(url: str, model: str, prompt: str, tokens: int) -> None:
    """Have the most likely so many tokens generated, and wait for their end.

    Raises PotluckError with the server's reason when it fails.
    """
    request = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    with _readable_errors(url):
        _check(httpx.post(f"{url}/v1/completions", json=request, timeout=_ANSWER_S, verify=_trust()))


def stream_chat(url: str, model: str, messages: list[Json]) -> Iterator[str]:
    """The answer's text, piece by piece. Raises PotluckError with the server's reason when it fails."""
    request = {"model": model, "messages": messages, "stream": True}
    with (
        _readable_errors(url),
        httpx.stream("POST", f"{url}/v1/chat/completions", json=request, timeout=_ANSWER_S, verify=_trust()) as reply,
    ):
        if reply.is_error:
            reply.read()
        _check(reply)
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                yield _text(json.loads(line.removeprefix("data: ")))


def _trust() -> ssl.SSLContext:
    """The authorities that the system trusts, as nodes' sockets do, not httpx's own list; or `SSL_CERT_FILE`."""
    return ssl.create_default_context()


def _text(event: Json) -> str:
    if "error" in event:
        raise PotluckError(event["error"]["message"])
    return "".join(choice["delta"].get("content", "") for choice in event["choices"])


def _check(reply: httpx.Response) -> None:
    if reply.is_error:
        try:
            message = reply.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"the server answers {reply.status_code} {reply.reason_phrase}"
        raise PotluckError(message)


@contextmanager
def _readable_errors(url: str) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise PotluckError(f"No coordinator can be reached at {url}: {error}.") from error
