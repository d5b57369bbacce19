"""A coordinator behind a reverse proxy: whose address counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from kit.newcomer import COORDINATOR
from kit.processes import OPEN, PRIVATE, complaint
from kit.runner import run
from potluck.coordinator.app import ModelConfig, ServeConfig, make_app
from potluck.coordinator.http.office import open_office
from potluck.coordinator.members.lookup import GUESSES
from potluck.coordinator.members.store import open_file
from potluck.local import HANG_S
from potluck.models.sources import find_model, open_model
from potluck.types import Audience

WRONG = f"pk-{'x' * 32}"


def ask(url: str, key: str, *forwarded: str) -> int:
    """The status of a request that a proxy has passed on for these addresses."""
    headers = [("Authorization", f"Bearer {key}"), *(("X-Forwarded-For", each) for each in forwarded)]
    return httpx.get(f"{url}/status", headers=headers, timeout=HANG_S).status_code


def count(status: int, url: str, key: str, *forwarded: str) -> int:
    """How many requests in a row end with this status before the first one that comes too often."""
    for number in range(1000):
        if (told := ask(url, key, *forwarded)) == 429:
            return number
        assert told == status
    raise AssertionError("No request was one too many.")


def test_behind_a_proxy_everybody_has_limits_of_their_own(start):
    swarm = start(*PRIVATE, "--forwarded-for", "10.0.0.0/8, 127.0.0.1", "--forwarded-for", "::1")
    assert count(401, swarm.url, WRONG, "203.0.113.1, 10.1.2.3") >= GUESSES
    assert count(401, swarm.url, WRONG, "203.0.113.2") >= GUESSES
    assert count(401, swarm.url, WRONG) >= GUESSES
    # What the guesser itself writes into the header stands before what the proxy adds.
    assert count(401, swarm.url, WRONG, "203.0.113.2") < GUESSES
    assert count(401, swarm.url, WRONG, "203.0.113.9, 203.0.113.2") < GUESSES
    assert count(401, swarm.url, WRONG, "203.0.113.9", "203.0.113.2, 127.0.0.1") < GUESSES
    assert ask(swarm.url, swarm.new_key("--account", "ben"), "203.0.113.9") == 200


@pytest.mark.parametrize("options", [[], ["--forwarded-for", "192.0.2.7"]], ids=["no proxy", "another proxy"])
def test_nobody_else_is_believed(start, options: list[str]):
    swarm = start(*PRIVATE, *options)
    key = swarm.new_key("--account", "anna")
    assert ask(swarm.url, key, "203.0.113.99") == 200
    assert count(401, swarm.url, WRONG, "203.0.113.1") >= GUESSES
    assert count(401, swarm.url, WRONG, "203.0.113.2") < GUESSES
    assert ask(swarm.url, key, "203.0.113.99") == 200  # beside a guesser, a key that was good stays good
    assert ask(swarm.url, swarm.admin_key) == 200


def test_strangers_behind_a_proxy_do_not_share_a_limit(start):
    swarm = start(*OPEN, "--forwarded-for", "127.0.0.1")
    assert count(200, swarm.url, "none", "203.0.113.1") >= 60
    assert count(200, swarm.url, "none", "203.0.113.2") >= 60
    assert count(200, swarm.url, "none", "203.0.113.2") < 60


@pytest.fixture
def app(tiny: Path, tmp_path: Path) -> Iterator[Starlette]:
    store = open_file(tmp_path / "potluck.db")
    office = open_office(store, Audience.PRIVATE, COORDINATOR, "http://127.0.0.1:8470")
    yield make_app(
        ServeConfig(models=(ModelConfig(find_model(str(tiny))),), proxies=("127.0.0.1/32",)),
        [open_model(tiny)],
        office,
    )
    office.close()
    store.close()


@pytest.mark.parametrize(
    ("peer", "forwarded", "seen"),
    [
        ("127.0.0.1", b"198.51.100.3, 203.0.113.1", "203.0.113.1"),
        ("127.0.0.1", b"2001:db8::7", "2001:db8::7"),
        ("127.0.0.1", b"", "127.0.0.1"),
        ("192.0.2.1", b"203.0.113.1", "192.0.2.1"),
    ],
)
def test_nodes_too_have_their_own_addresses(app: Starlette, peer: str, forwarded: bytes, seen: str):
    clients: list[str] = []
    [socket] = [route for route in app.routes if isinstance(route, WebSocketRoute)]

    async def gateway(scope: Any, _receive: Any, _send: Any) -> None:
        clients.append(scope["client"][0])

    async def nothing(*_: Any) -> Any:
        raise AssertionError("Nobody sends or receives here.")

    socket.app = gateway
    headers = [(b"host", b"127.0.0.1"), (b"x-forwarded-for", forwarded)]
    scope = {"type": "websocket", "path": "/node", "headers": headers, "query_string": b"", "client": (peer, 1)}
    run(app(scope, nothing, nothing))
    assert clients == [seen]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["nowhere"], "--forwarded-for takes addresses such as 127.0.0.1 or 10.0.0.0/8, not 'nowhere'."),
        (["127.0.0.1,"], "--forwarded-for takes addresses such as 127.0.0.1 or 10.0.0.0/8, not ''."),
        (["*"], "--forwarded-for takes addresses such as 127.0.0.1 or 10.0.0.0/8, not '*'."),
        (["0.0.0.0/0"], "--forwarded-for 0.0.0.0/0 would believe everybody: name your proxy's address instead."),
        (["127.0.0.1", "--local"], "--local cannot be reached through a proxy: leave --forwarded-for out."),
    ],
)
def test_a_wrong_value_is_refused_with_a_sentence(options: list[str], sentence: str):
    assert complaint("serve", "model", "--forwarded-for", *options) == sentence
