import pytest

from potluck.errors import WireError
from potluck.wire.origin import is_loopback, leads_here, origin


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://192.168.1.5:8470", "http://192.168.1.5:8470"),
        ("http://example.org", "http://example.org:80"),
        ("https://Example.org/", "https://example.org:443"),
        ("HTTPS://example.org:443/swarm/?x#y", "https://example.org:443"),
        ("https://anna:secret@example.org", "https://example.org:443"),
        ("http://[::1]:8470", "http://[::1]:8470"),
    ],
)
def test_an_origin_has_one_spelling(url: str, expected: str) -> None:
    assert origin(url) == expected


@pytest.mark.parametrize("url", ["", "example.org", "http://", "ftp://example.org", "http://host:port", "http://[::1"])
def test_what_has_no_origin_is_a_wire_error(url: str) -> None:
    with pytest.raises(WireError):
        origin(url)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "[::1]", "LOCALHOST", "[::ffff:127.0.0.1]"])
def test_loopback_is_this_machine(host: str) -> None:
    assert is_loopback(f"http://{host}:8470")
    assert leads_here(f"http://{host}:8470")


@pytest.mark.parametrize("host", ["192.168.1.5", "example.org", "localhost.example.org", "127.example.org", "[::2]"])
def test_another_host_is_not(host: str) -> None:
    assert not is_loopback(f"https://{host}")
    assert not leads_here(f"https://{host}")


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "[::ffff:0.0.0.0]"])
def test_an_unspecified_address_is_not_loopback_but_may_lead_here(host: str) -> None:
    assert not is_loopback(f"http://{host}:8470")
    assert leads_here(f"http://{host}:8470")
