"""An invite waits for the node that starts at login, and only for its coordinator."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from potluck.errors import IdentityError
from potluck.node.kept_invite import drop_invite, keep_invite, kept_invite
from potluck.wire.identity import node_invite

URL = "http://192.168.1.5:8470"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POTLUCK_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_an_invite_is_kept_for_one_node_and_one_coordinator() -> None:
    keep_invite("anna", f"{URL}/path", "SECRET.KEY")
    assert kept_invite("anna", URL) == "SECRET.KEY"
    assert kept_invite("ben", URL) == ""
    assert kept_invite("anna", "http://192.168.1.6:8470") == ""
    if os.name == "posix":
        assert node_invite("anna").stat().st_mode & 0o777 == 0o600
        assert node_invite("anna").parent.stat().st_mode & 0o777 == 0o700


def test_an_admitted_node_s_invite_is_dropped() -> None:
    keep_invite("anna", URL, "SECRET.KEY")
    drop_invite("anna", "http://192.168.1.6:8470")
    assert kept_invite("anna", URL) == "SECRET.KEY"
    for _ in range(2):
        drop_invite("anna", URL)
        assert not node_invite("anna").exists()


def test_names_that_look_like_suffixes_have_files_of_their_own() -> None:
    assert len({node_invite(name) for name in ("a", "a.b", "a.c", "a/b", "a.key")}) == 5


def test_an_invite_that_cannot_be_read_is_complained_of() -> None:
    keep_invite("anna", URL, "SECRET.KEY")
    node_invite("anna").write_bytes(b"\xff")
    with pytest.raises(IdentityError, match=r"^The invite in .*anna\.invite cannot be read: "):
        kept_invite("anna", URL)


def test_an_invite_that_cannot_be_kept_is_complained_of(data: Path) -> None:
    data.write_text("a file where the folder should be")
    with pytest.raises(IdentityError, match=r"^The invite cannot be kept in .*anna\.invite: "):
        keep_invite("anna", URL, "SECRET.KEY")
