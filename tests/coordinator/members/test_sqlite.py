"""The database's file: who can read it, and what still works where nothing can be written."""

import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kit import full_disk as disk
from kit.full_disk import full_disk
from potluck.coordinator.members import sqlite as module
from potluck.coordinator.members.door import StoreDoor
from potluck.coordinator.members.keys import Keys
from potluck.coordinator.members.members import Members
from potluck.coordinator.members.store import open_file, open_store
from potluck.errors import StoreError

ANNA = b"a" * 32

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes.")
limits = pytest.mark.skipif(not disk.POSSIBLE, reason="Windows has no such limits.")


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "potluck.db"


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


@posix
@pytest.mark.parametrize("by_url", [False, True])
def test_all_files_of_the_database_are_its_owners(file: Path, by_url: bool) -> None:
    with closing(open_store(f"sqlite:///{file}") if by_url else open_file(file)) as store:
        Keys(store).create("anna")
        assert modes(file.parent) == dict.fromkeys(["potluck.db", "potluck.db-wal", "potluck.db-shm"], 0o600)


@posix
def test_files_of_an_older_version_are_taken_from_the_others(file: Path) -> None:
    names = ["potluck.db", "potluck.db-wal", "potluck.db-shm", "potluck.db.0001"]
    with closing(open_file(file)) as older:
        secret, _ = Keys(older).create("anna")
        (file.parent / names[-1]).touch()
        (file.parent / "potluck.db of a friend").touch(0o644)
        for name in names:
            (file.parent / name).chmod(0o644)
        with closing(open_file(file)) as store:
            assert Keys(store).find(secret) is not None
            assert modes(file.parent) == {**dict.fromkeys(names, 0o600), "potluck.db of a friend": 0o644}


def test_a_reader_waits_for_no_writer(file: Path) -> None:
    with closing(open_file(file)) as store:
        secret, _ = Keys(store).create("anna")
        with store.begin() as session:
            session.connection()  # the lock of all writers is taken
            found: list[object] = []
            thread = threading.Thread(target=lambda: found.append(Keys(store).find(secret)))
            thread.start()
            thread.join()  # it would hang, and then fail
        assert found != [None]
        assert len(found) == 1


@limits
def test_on_a_full_disk_everything_can_be_read_and_nothing_is_lost(file: Path, clock) -> None:
    with closing(open_file(file)) as store:
        secret, key = Keys(store).create("anna")
        StoreDoor(store, None, clock).admit(ANNA, "anna", "")
    assert modes(file.parent).keys() == {"potluck.db"}
    with full_disk():
        store = open_file(file)
        assert Keys(store).find(secret) == key
        assert StoreDoor(store, None, clock).admit(ANNA, "another name", "").account
        with pytest.raises(StoreError, match=r"^The database failed: .*\.$"):
            StoreDoor(store, None, clock).admit(b"b" * 32, "ben", "")
        with pytest.raises(StoreError, match=r"^The database failed: .*\.$"):
            Keys(store).revoke(key.id)
        assert Keys(store).find(secret) == key
    Keys(store).revoke(key.id)  # there is room again
    assert Keys(store).find(secret) is None
    assert [member.name for member in Members(store).all()] == ["anna"]
    store.close()


@limits
def test_a_revocation_that_is_not_in_the_file_yet_is_not_overlooked_on_a_full_disk(file: Path, tmp_path: Path) -> None:
    """A coordinator that was killed leaves its last changes beside the database."""
    copy = tmp_path / "killed" / "potluck.db"
    copy.parent.mkdir()
    with closing(open_file(file)) as store:
        secret, key = Keys(store).create("anna")
    with closing(open_file(file)) as store:
        Keys(store).revoke(key.id)
        for path in file.parent.glob("potluck.db*"):
            shutil.copy(path, copy.parent)
    told = (
        rf"^The database cannot be opened: disk I/O error; its latest changes need room in {copy.parent} to be read\.$"
    )
    link = tmp_path / "link.db"
    link.symlink_to(copy)
    for each in (copy, link):
        with full_disk(), pytest.raises(StoreError, match=told):
            open_file(each)
    with closing(open_file(copy)) as store:
        assert Keys(store).find(secret) is None


def test_a_database_that_cannot_be_written_starts_all_the_same(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that can only be read, as everybody sees it: for root, modes say nothing."""
    with closing(open_file(file)) as store:
        secret, _ = Keys(store).create("anna")
    refused: list[str] = []
    connect = module.sqlite3.connect

    class ReadOnly(sqlite3.Connection):
        def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:
            if sql == "PRAGMA journal_mode = WAL":
                refused.append(sql)
                error = sqlite3.OperationalError("attempt to write a readonly database")
                error.sqlite_errorcode = sqlite3.SQLITE_READONLY_DIRECTORY
                raise error
            return super().execute(sql, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("sqlite3.dbapi2.connect", lambda *args, **named: connect(*args, factory=ReadOnly, **named))
    with closing(open_file(file)) as store:
        assert Keys(store).find(secret) is not None
        with pytest.raises(StoreError, match="readonly"):
            Keys(store).create("ben")
    assert refused


def test_what_another_program_holds_is_not_taken_for_a_full_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUSY_S", 0.0)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="database is locked"):
            open_file(file)
