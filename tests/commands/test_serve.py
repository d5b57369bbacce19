"""`potluck serve` announces a coordinator only where others can reach it, and as long as it serves."""

from __future__ import annotations

import asyncio
import secrets
import socket
from functools import partial
from typing import Any, cast

import pytest

from kit.processes import complaint
from potluck.commands import serve
from potluck.coordinator import announcing
from potluck.local import HANG_S
from potluck.node.browsing import browse
from potluck.wire.beacon import Beacon, beacon_of
from potluck.wire.identity import Identity

LOOPBACK = ["127.0.0.1"]


def refusal(*options: str) -> str:
    """What is said of the options, before there is a look at the model."""
    return complaint("serve", "no-such-model.gguf", "--port", "0", "--announce", *options)


def test_who_cannot_be_reached_is_not_announced() -> None:
    assert refusal("--local") == "--local serves this machine only, so no other needs to know: leave --announce out."
    assert refusal("--host", "127.0.0.1").endswith(
        "others do not reach it by a plain IPv4 address: name one with --host."
    )
    assert refusal("--url", "https://potluck.example.org") == (
        "--announce tells others an address, but nodes are to dial potluck.example.org: "
        "name an address with --host or --url, or leave --announce out."
    )


class Server:
    """Serves until it is seen on the network, or for one look where it is not to be."""

    def __init__(self, model: str, announced: bool) -> None:
        self._model, self._announced = model, announced
        self.seen: list[Beacon] = []

    async def serve(self, _: list[socket.socket]) -> None:
        while not self.seen:
            self.seen = [each for each in await browse(0.3, LOOPBACK) if each.model == self._model]
            if not self._announced:
                return


@pytest.mark.parametrize("announced", [True, False])
def test_a_coordinator_is_announced_while_it_serves_if_its_owner_says_so(
    announced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "announced", partial(announcing.announced, interfaces=LOOPBACK))
    beacon = beacon_of("http://192.168.7.5:8470", "0.1.0", private=True).of(f"toy-{secrets.token_hex(8)}")
    server = Server(beacon.model, announced)
    serving = serve._serve(cast(Any, server), cast(Any, None), beacon if announced else None, Identity.fresh())
    asyncio.run(asyncio.wait_for(serving, HANG_S))
    assert server.seen == ([beacon] if announced else [])


def test_a_model_has_the_names_that_its_owner_gives_it() -> None:
    assert serve._names(["acme/big", " small ", "acme/big"], 1) == [("acme/big", "small")]
    assert serve._names([], 1) == [()]
    assert serve._names(["big", "small"], 2) == [("big",), ("small",)]
    assert serve._names([], 2) == [(), ()]


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    assert complaint("serve", "no-such-model.gguf", "--port", "0", "--name", name) == (
        f"--name takes up to 255 printable characters, not {name!r}."
    )
