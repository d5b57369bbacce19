import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from potluck.errors import IdentityError
from potluck.node.pins import Pins
from potluck.wire.identity import fingerprint

ANNA, BEN = "http://192.168.1.5:8470", "https://ben.example:443"
KEY, OTHER = bytes(range(32)), bytes(32)


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    return Pins(tmp_path / "data" / "known.json")


def test_the_first_key_is_kept_and_known_again(pins: Pins, tmp_path: Path) -> None:
    assert not pins.recognise(ANNA, KEY)
    assert pins.recognise(ANNA, KEY)
    assert not pins.recognise(BEN, OTHER)
    again = Pins(tmp_path / "data" / "known.json")
    assert again.recognise(ANNA, KEY)
    assert again.recognise(BEN, OTHER)


def test_another_key_is_refused_with_both_fingerprints_and_what_to_do(pins: Pins) -> None:
    pins.recognise(ANNA, KEY)
    with pytest.raises(IdentityError) as refused:
        pins.recognise(ANNA, OTHER)
    for part in (ANNA, fingerprint(KEY), fingerprint(OTHER), f"potluck forget {ANNA}"):
        assert part in str(refused.value)
    assert pins.recognise(ANNA, KEY)


def test_a_forgotten_coordinator_may_have_another_key(pins: Pins) -> None:
    pins.recognise(ANNA, KEY)
    pins.recognise(BEN, KEY)
    assert pins.forget(ANNA)
    assert not pins.forget(ANNA)
    assert not pins.recognise(ANNA, OTHER)
    assert pins.recognise(BEN, KEY)


def test_nodes_that_join_together_keep_all_their_coordinators(pins: Pins) -> None:
    origins = [f"http://host{number}:80" for number in range(8)] * 2
    with ThreadPoolExecutor(8) as threads:
        known = list(threads.map(lambda origin: pins.recognise(origin, KEY), origins))
    assert known.count(False) == 8
    assert all(pins.recognise(origin, KEY) for origin in origins)


@pytest.mark.skipif(os.name != "posix", reason="Modes are of POSIX.")
def test_the_file_is_its_owners(pins: Pins, tmp_path: Path) -> None:
    pins.recognise(ANNA, KEY)
    assert stat.S_IMODE((tmp_path / "data" / "known.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "[]", '{"http://a:80": 1}', '{"http://a:80": "xyz"}', "\0"])
def test_a_broken_file_trusts_nobody(pins: Pins, tmp_path: Path, content: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "known.json").write_text(content)
    for use in (lambda: pins.recognise(ANNA, KEY), lambda: pins.forget(ANNA)):
        with pytest.raises(IdentityError, match=r"known\.json cannot be read"):
            use()


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IdentityError, match="cannot be written"):
        Pins(tmp_path / "file" / "known.json").recognise(ANNA, KEY)
