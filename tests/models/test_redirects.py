"""Where a coordinator may lead a node."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

import httpx
import pytest

from kit.fileserver import FileServer
from potluck import network
from potluck.errors import ModelError
from potluck.models.http_source import CoordinatorSource
from potluck.models.redirects import Redirects, is_public

FAR = Redirects(httpx.URL("http://swarm.example:8470"))
NEAR = Redirects(httpx.URL("http://127.0.0.1:8470"))


@pytest.mark.parametrize("address", ["1.1.1.1", "18.64.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1%eth0", "fc00::1",
        "fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::",
    ],
)  # fmt: skip
def test_addresses_of_this_machine_and_its_network(address):
    assert not is_public(address)


def resolve(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        if not addresses:
            raise socket.gaierror
        return [(0, 0, 0, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def allowed(policy: Redirects, url: str) -> bool:
    try:
        policy.check(httpx.URL(url))
    except ModelError:
        return False
    return True


def test_the_hub_may_be_led_to(monkeypatch):
    resolve(monkeypatch, "18.64.0.1", "2606:4700::1111")
    assert allowed(FAR, "https://huggingface.co/someone/model/resolve/main/model.safetensors")
    assert allowed(NEAR, "https://huggingface.co/someone/model/resolve/main/model.safetensors")


def test_nothing_else_may(monkeypatch):
    resolve(monkeypatch, "18.64.0.1")
    assert not allowed(FAR, "http://huggingface.co/model")
    assert not allowed(FAR, "ftp://huggingface.co/model")
    resolve(monkeypatch, "18.64.0.1", "192.168.1.1")
    assert not allowed(FAR, "https://rebinding.example/")
    assert not allowed(NEAR, "https://rebinding.example/")
    resolve(monkeypatch, "127.0.0.1")
    assert not allowed(FAR, "https://localhost.example/")
    assert not allowed(FAR, "https://127.0.0.1/")


def test_a_coordinator_here_may_lead_to_this_machine(monkeypatch):
    resolve(monkeypatch, "127.0.0.1")
    assert allowed(NEAR, "http://127.0.0.1:9999/model")
    assert allowed(NEAR, "http://localhost:9999/model")
    assert not allowed(FAR, "http://127.0.0.1:9999/model")
    assert not allowed(NEAR, "http://192.168.1.1/model")


def test_a_name_that_cannot_be_found_is_refused_unless_a_proxy_knows_it(monkeypatch):
    resolve(monkeypatch)
    monkeypatch.setattr(network, "getproxies", dict)
    assert not allowed(FAR, "https://nowhere.example/")
    monkeypatch.setattr(network, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert allowed(FAR, "https://nowhere.example/")


class Stream:
    """A connection to 127.0.0.1."""

    closed = False

    def get_extra_info(self, _: str) -> tuple[str, int]:
        return "127.0.0.1", 443

    def close(self) -> None:
        self.closed = True


def test_a_connection_that_led_elsewhere_is_closed_before_anything_is_sent():
    stream, look = Stream(), FAR.watch(httpx.URL("https://rebinding.example/"))
    look("connection.connect_tcp.started", {"host": "rebinding.example"})
    with pytest.raises(ModelError, match="may redirect only to public https servers"):
        look("connection.connect_tcp.complete", {"return_value": stream})
    assert stream.closed


def test_a_proxy_may_be_anywhere():
    stream, look = Stream(), FAR.watch(httpx.URL("https://huggingface.co/"))
    look("connection.connect_tcp.started", {"host": "proxy.example"})
    look("connection.connect_tcp.complete", {"return_value": stream})
    assert not stream.closed


def test_the_connection_is_looked_at_in_earnest(tmp_path, monkeypatch):
    """A name that was public when it was checked leads to this machine when it is dialled."""
    with FileServer(tmp_path).running() as server, FileServer(tmp_path).running() as inner:
        server.elsewhere = inner.url
        with closing(CoordinatorSource(server.url)) as source:
            monkeypatch.setattr(source, "_redirects", FAR)
            monkeypatch.setattr(FAR, "check", lambda _: None)
            with pytest.raises(ModelError, match="may redirect only to public https servers"):
                list(source.stream("tiny.gguf", 0, 10))
        assert server.shown
        assert not inner.shown
