import pytest

from potluck.errors import WireError
from potluck.types import Coordinator
from potluck.wire.fleet import MOST_COORDINATORS, check_fleet

KEY = bytes(32)


@pytest.mark.parametrize(
    "url", ["http://192.168.1.5:8470", "https://swarm.example/one", "http://[fd00::5]:8470", "http://anna.local"]
)
def test_what_an_owner_could_have_given_is_right(url: str) -> None:
    check_fleet([Coordinator(url, KEY)])


@pytest.mark.parametrize(
    "url",
    [
        "",
        "192.168.1.5:8470",
        "ws://192.168.1.5:8470",
        "file:///etc/passwd",
        "http://",
        "http://a:0",
        "http://a:99999",
        "http://a/",
        "http://a/v1",
        "http://anna:secret@a",
        "http://a#invite",
        "http://a?b=c",
        "http://a b",
        "http://a\r\nX: y",
        "http://a\x1b[2J",
        "http://ä",
        f"http://{'a' * 300}",
    ],
)
def test_what_is_no_url_of_a_coordinator_is_refused(url: str) -> None:
    with pytest.raises(WireError, match="which is not the URL of a coordinator"):
        check_fleet([Coordinator("http://a", KEY), Coordinator(url, KEY)])


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_what_can_be_no_key_is_refused(key: bytes) -> None:
    with pytest.raises(WireError, match=f"has {len(key)} bytes instead of 32"):
        check_fleet([Coordinator("http://a", key)])


def test_there_are_only_so_many() -> None:
    fleet = [Coordinator(f"http://a:{1 + place}", KEY) for place in range(MOST_COORDINATORS + 1)]
    check_fleet(fleet[1:])
    with pytest.raises(WireError, match="names 65 others, of which there may be 64"):
        check_fleet(fleet)
