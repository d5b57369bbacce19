import pytest

from potluck.client import checked_url, split_invite
from potluck.errors import PotluckError


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("192.168.1.5:8470", "http://192.168.1.5:8470"),
        ("http://192.168.1.5:8470/", "http://192.168.1.5:8470"),
        ("https://example.org/swarm/", "https://example.org/swarm"),
        ("ws://192.168.1.5:8470", "http://192.168.1.5:8470"),
        ("wss://example.org", "https://example.org"),
        ("[::1]:8470", "http://[::1]:8470"),
        ("http://192.168.1.5:8470/v1", "http://192.168.1.5:8470"),
        ("192.168.1.5:8470/v1/", "http://192.168.1.5:8470"),
        ("http://192.168.1.5:8470/v1/chat/completions", "http://192.168.1.5:8470"),
        ("http://192.168.1.5:8470//v1//models/", "http://192.168.1.5:8470"),
        ("https://example.org/swarm/v1", "https://example.org/swarm"),
        ("https://example.org/v1/swarm", "https://example.org/v1/swarm"),
        ("https://example.org/potluck-v1", "https://example.org/potluck-v1"),
        ("https://v1", "https://v1"),
        ("http://example.org/chat", "http://example.org/chat"),
    ],
)
def test_urls_as_people_write_them(text: str, url: str) -> None:
    assert checked_url(text) == url
    assert split_invite(text) == (url, "")
    assert split_invite(f"{text}#secret.0123") == (url, "secret.0123")


@pytest.mark.parametrize(
    "text", ["", "http://", "wss://", "ftp://example.org", "http://host:port", "http://host:0", "#x"]
)
def test_what_is_no_url_is_refused(text: str) -> None:
    for read in (checked_url, split_invite):
        with pytest.raises(PotluckError, match="is not a coordinator's URL"):
            read(text)
