import errno
import os
import stat
from pathlib import Path

import pytest

from potluck.wire import private as module
from potluck.wire.identity import Identity, first_invite, node_key, tighten_data
from potluck.wire.private import make_folder, tighten, write_private

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes.")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_every_folder_that_is_made_is_its_owners(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/c")] == [0o700] * 3
    assert mode(tmp_path) == 0o755


def test_what_is_written_is_its_owners_and_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    write_private(tmp_path / "secret", b"one")
    assert (mode(tmp_path / "secret"), (tmp_path / "secret").read_bytes()) == (0o600, b"one")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_private(tmp_path / "secret", b"two")
    assert [file.name for file in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").read_bytes() == b"one"


def test_what_exists_is_taken_from_the_others(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch(0o664)
    link.symlink_to(file)
    for path in (link, tmp_path / "nothing"):
        tighten(path)
    assert mode(file) == 0o644
    tighten(file)
    assert mode(file) == 0o600
    file.chmod(0o400)
    tighten(file)
    assert mode(file) == 0o400


def test_a_mode_that_cannot_be_changed_is_told(tmp_path: Path, monkeypatch, caplog) -> None:
    (tmp_path / "file").touch(0o644)

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "chmod", refuse)
    tighten(tmp_path / "file")
    assert caplog.messages == [
        f"Others can read {tmp_path}/file, and its mode cannot be changed: Read-only file system."
    ]


def test_files_of_another_user_are_left_to_them(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    tighten(tmp_path / "file")
    assert mode(tmp_path / "file") == 0o644


@pytest.mark.parametrize("named", [False, True])
def test_the_data_folder_of_an_older_version_is_closed(tmp_path: Path, monkeypatch, named: bool) -> None:
    folder = tmp_path / ("named" if named else "share/potluck")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.delenv("POTLUCK_DATA", raising=False)
    if named:
        monkeypatch.setenv("POTLUCK_DATA", str(folder))
    elif node_key("anna").parent.parent != folder:
        pytest.skip("This system keeps its data elsewhere.")
    tighten_data()  # nothing is there
    assert not folder.exists()
    Identity.load(node_key("anna"))
    first_invite().touch()
    for path in (folder, folder / "nodes", first_invite()):
        path.chmod(0o755)
    tighten_data()
    assert [mode(path) for path in (folder, folder / "nodes")] == [0o755 if named else 0o700, 0o700]
    assert mode(first_invite()) & 0o077 == 0
    assert [mode(file) & 0o077 for file in (folder / "nodes").iterdir()] == [0, 0]  # the key and its lock
