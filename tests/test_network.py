"""Proxies of the environment: which one is taken, and what is said of one that cannot be."""

from __future__ import annotations

import sys

import httpx
import pytest

from potluck.errors import ProxyFault
from potluck.network import http_client, proxy_for, socket_proxy, way_to

SETTINGS = [f"{scheme}_proxy" for scheme in ("http", "https", "all", "no", "ws", "wss", "socks")]
MISSING = (
    "all_proxy names a SOCKS proxy, for which a package is missing: run pip install 'potluck[socks]', or unset it."
)


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("settings", "url", "found"),
    [
        ({}, "http://potluck.example", None),
        ({"http_proxy": "http://p:1"}, "http://potluck.example", ("http_proxy", "http://p:1")),
        ({"http_proxy": "http://p:1"}, "https://potluck.example", None),
        ({"http_proxy": "http://p:1", "all_proxy": "http://q:1"}, "ws://potluck.example", ("http_proxy", "http://p:1")),
        ({"https_proxy": "http://p:1", "all_proxy": "q:1"}, "ws://potluck.example", ("all_proxy", "http://q:1")),
        ({"ALL_PROXY": "socks5h://p:1"}, "wss://potluck.example", ("all_proxy", "socks5h://p:1")),
        ({"all_proxy": "http://p:1", "no_proxy": "potluck.example"}, "http://potluck.example", None),
        ({"all_proxy": "http://p:1", "no_proxy": "potluck.example"}, "http://u:p@potluck.example:8470", None),
        ({"all_proxy": "http://p:1", "no_proxy": "*"}, "http://potluck.example", None),
        ({"all_proxy": "http://p:1"}, "http://127.0.0.1:8470", None),
        ({"all_proxy": "http://p:1"}, "ws://localhost:8470/node", None),
        ({"all_proxy": "http://p:1"}, "http://[::1]:8470", None),
        ({"all_proxy": ""}, "http://potluck.example", None),
    ],
)
def test_the_proxy_on_the_way(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], url: str, found: tuple[str, str] | None
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == found
    assert way_to(url) == (f"{url} through the proxy of {found[0]}" if found else url)


WRONG = ["ftp://p:1", "http://p:port", "http://p:99999", "http://p:0", "http://", "://", "http://[::1", "socks4a://p:1"]


@pytest.mark.parametrize("proxy", WRONG)
def test_what_is_no_proxy_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("all_proxy", proxy.replace("://", "://anna:secret@"))
    for use in (http_client, lambda: socket_proxy("ws://potluck.example/node")):
        with pytest.raises(ProxyFault, match=r"^all_proxy is not the URL of a proxy: correct or unset it\.$"):
            use()


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_socks_needs_a_package(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("all_proxy", f"{scheme}://anna:secret@p:1080")
    for module in ("socksio", "python_socks"):
        monkeypatch.setitem(sys.modules, module, None)
    for use in (http_client, lambda: socket_proxy("ws://potluck.example/node")):
        with pytest.raises(ProxyFault) as raised:
            use()
        assert str(raised.value) == MISSING


def test_a_setting_that_is_not_needed_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "ftp://p:1")
    assert socket_proxy("ws://127.0.0.1:8470/node") is None
    http_client(base_url="http://127.0.0.1:8470").close()


@pytest.mark.parametrize(
    ("proxy", "told"),
    [
        ("p:3128", "http://p:3128"),
        ("http://p:3128/", "http://p:3128"),
        ("http://anna@p:3128/x?y", "http://anna:@p:3128"),
        ("https://anna:secret@[::2]:3128", "https://anna:secret@[::2]:3128"),
    ],
)
def test_websockets_gets_a_proxy_in_its_own_form(monkeypatch: pytest.MonkeyPatch, proxy: str, told: str) -> None:
    monkeypatch.setenv("all_proxy", proxy)
    assert socket_proxy("ws://potluck.example/node") == told


def test_this_machine_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "http://p:1")
    with http_client() as client:
        for url in ("http://127.0.0.1:8470", "https://localhost", "http://[::1]:8470"):
            assert client._transport_for_url(httpx.URL(url)) is client._transport
        assert client._transport_for_url(httpx.URL("http://potluck.example")) is not client._transport
