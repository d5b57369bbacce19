"""What is announced on a network, and what is believed of it."""

from __future__ import annotations

import pytest

from potluck.errors import PotluckError
from potluck.wire.beacon import _MOST_BYTES, Beacon, beacon_of, read_beacon


def heard(beacon: Beacon) -> Beacon | None:
    texts: dict[bytes, bytes | None] = {name.encode(): text for name, text in beacon.texts().items()}
    return read_beacon([beacon.address], beacon.port, texts)


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize(
    "url",
    ["http://192.168.1.5:8470", "https://10.0.0.1:443", "http://192.168.1.5:80/our/swarm", "http://169.254.3.4:1"],
)
def test_what_is_announced_is_read_back(url: str, private: bool) -> None:
    beacon = beacon_of(url, "0.1.0", private).of("Modell für alle")
    assert heard(beacon) == beacon
    assert beacon.url == url


@pytest.mark.parametrize(("url", "port"), [("http://192.168.1.5", 80), ("https://192.168.1.5", 443)])
def test_a_port_that_the_url_leaves_out_is_announced(url: str, port: int) -> None:
    assert beacon_of(url, "", True).port == port


@pytest.mark.parametrize("url", ["https://potluck.example.org", "http://localhost:8470"])
def test_who_must_be_dialled_by_name_is_not_announced(url: str) -> None:
    with pytest.raises(PotluckError, match=r"^--announce tells others an address, but nodes are to dial [\w.]+: name"):
        beacon_of(url, "", True)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8470", "http://[fd00::2]:8470", "http://0.0.0.0:1", "http://192.168.1.5:1/a b"]
)
def test_who_has_no_plain_address_for_others_is_not_announced(url: str) -> None:
    with pytest.raises(PotluckError, match="cannot be announced, because others do not reach it by a plain IPv4"):
        beacon_of(url, "", True)


def test_a_stranger_writes_nothing_on_the_terminal() -> None:
    read = read_beacon(["192.168.1.5"], 1, {b"model": b"\x1b[31mred\x07\r\n \xe2\x80\xaeleft \xff", b"version": None})
    assert read == Beacon("192.168.1.5", 1, "", "[31mred left", "", private=True, secure=False)


def test_a_stranger_s_texts_are_cut() -> None:
    read = read_beacon(["192.168.1.5"], 1, {b"model": "ü".encode() * 1000})
    assert read is not None
    assert read.model == "ü" * (_MOST_BYTES // 2)
    long = beacon_of("http://192.168.1.5:1", "", True).of("x" + "ü" * 1000)
    assert all(len(f"{name}=") + len(text) <= 255 for name, text in long.texts().items())
    assert heard(long) == long.of("x" + "ü" * ((_MOST_BYTES - 1) // 2))


@pytest.mark.parametrize(
    ("addresses", "port", "path"),
    [
        ([], 1, b""),
        (["fe80::1"], 1, b""),
        (["127.0.0.1"], 1, b""),
        (["0.0.0.0", "224.0.0.251", "255.255.255.255"], 1, b""),
        (["192.168.1.5"], 0, b""),
        (["192.168.1.5"], 65536, b""),
        (["192.168.1.5"], 1, b"@evil.example.org/"),
        (["192.168.1.5"], 1, b"/#SECRET.KEY"),
        (["192.168.1.5"], 1, b"/a?b"),
    ],
)
def test_what_makes_no_url_is_not_listed(addresses: list[str], port: int, path: bytes) -> None:
    assert read_beacon(addresses, port, {b"path": path}) is None
