"""What a node knows of its coordinator's fleet outlives it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from potluck.errors import IdentityError
from potluck.node.kept_fleet import drop_fleet, fleet_path, keep_fleet, kept_fleet
from potluck.types import Coordinator

URL = "http://192.168.1.5:8470"
FLEET = (Coordinator("http://192.168.1.6:8470", bytes(range(32))), Coordinator("https://b.example", bytes(32)))


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POTLUCK_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_it_is_kept_for_one_coordinator_and_its_owner_alone() -> None:
    assert kept_fleet(URL) == ()
    keep_fleet(f"{URL}/path", FLEET)
    assert kept_fleet(URL) == FLEET
    assert kept_fleet("http://192.168.1.7:8470") == ()
    if os.name == "posix":
        assert fleet_path(URL).stat().st_mode & 0o777 == 0o600
        assert fleet_path(URL).parent.stat().st_mode & 0o777 == 0o700
    for _ in range(2):
        drop_fleet(URL)
        assert kept_fleet(URL) == ()


@pytest.mark.parametrize(
    "content", ["", "{}", '[{"url": "http://a", "key": ""}]', '[{"url": "a"}]', '[{"url": "ftp://a", "key": "AAAA"}]']
)
def test_a_broken_file_is_complained_of(content: str) -> None:
    keep_fleet(URL, FLEET)
    fleet_path(URL).write_text(content)
    with pytest.raises(IdentityError, match=r"^The other coordinators in .*8470\.json cannot be read: .*[^.]\.$"):
        kept_fleet(URL)


def test_what_cannot_be_kept_is_complained_of(data: Path) -> None:
    data.write_text("a file where the folder should be")
    with pytest.raises(IdentityError, match=r"^The other coordinators cannot be kept in .*8470\.json: "):
        keep_fleet(URL, FLEET)
