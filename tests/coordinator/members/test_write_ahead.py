"""What a coordinator that was killed had not stored yet, its next run stores."""

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from kit.runner import run
from potluck.coordinator.members import write_ahead
from potluck.coordinator.members.books import Books
from potluck.coordinator.members.door import StoreDoor
from potluck.coordinator.members.ledger import Account
from potluck.coordinator.members.members import Members
from potluck.coordinator.members.store import Store, open_store
from potluck.errors import StoreError
from potluck.local import HANG_S

ANNA = b"a" * 32


@pytest.fixture
def known(store: Store, clock) -> Store:
    """A store that knows a node."""
    StoreDoor(store, None, clock).admit(ANNA, "anna", "")
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "credits"


@pytest.fixture
def began(known: Store, folder: Path) -> Iterator[Callable[[], Books]]:
    """Begins a run."""
    books: list[Books] = []

    def begin() -> Books:
        books.append(Books(known, ahead=folder))
        return books[-1]

    yield begin
    for each in books:
        kill(each)


def kill(books: Books) -> None:
    """Take from a run what the system takes from a killed process."""
    assert books._ahead is not None
    books._ahead._close_file()
    books._ahead._lock.close()


def work(books: Books, credits: int = 10) -> None:
    books.ledger.earn(ANNA, "anna", credits)
    books.ledger.settle(ANNA)


async def written() -> None:
    """Let the loop do what it was given to do."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def only_batch(folder: Path) -> Path:
    [batch] = folder.glob("*.1")
    return batch


def files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


def test_what_a_killed_process_had_not_stored_is_stored_by_the_next(known: Store, database: str, folder: Path) -> None:
    script = f"""
import asyncio, os, pathlib, signal
from potluck.coordinator.members.books import Books
from potluck.coordinator.members.store import open_store

async def test():
    books = Books(open_store({database!r}), ahead=pathlib.Path({str(folder)!r}))
    for credits in (5, 7):
        books.ledger.earn({ANNA!r}, "anna", credits)
        books.ledger.settle({ANNA!r})
        await books.write()
    books.ledger.earn({ANNA!r}, "anna", 30)
    books.ledger.settle({ANNA!r})
    books.ledger.spend("anna", 4)
    books.ledger.audited({ANNA!r}, passed=True)
    books.ledger.audited({ANNA!r}, passed=False)
    await asyncio.sleep(0)
    books.ledger.earn({ANNA!r}, "anna", 100)
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM if os.name == "nt" else signal.SIGKILL)

asyncio.run(test())
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=HANG_S, check=False).returncode != 0
    assert Books(known).ledger.account("anna") == Account(12, 0)
    books = Books(known, ahead=folder)
    assert books.ledger.account("anna") == Account(42, 4)
    assert books.recovered == {"anna": (42, 4)}
    [member] = Members(known).with_keys([ANNA.hex()])
    assert books.ledger.pending(member.account) == 100
    assert (member.audits_passed, member.audits_failed) == (1, 1)
    assert files(folder) == [".lock"]  # its own
    kill(books)
    again = Books(known, ahead=folder)
    assert (again.ledger.account("anna"), again.recovered) == (Account(42, 4), {})
    kill(again)


def test_a_run_that_ends_leaves_nothing(known: Store, folder: Path) -> None:
    async def test() -> None:
        books = Books(known, every_s=1000, ahead=folder)
        async with books.kept():
            work(books)
            await written()
            assert files(folder) == [".1", ".lock"]
            await books.write()
            work(books)
        books.close()
        assert files(folder) == []
        assert Books(known).ledger.account("anna") == Account(20, 0)

    run(test())


def test_what_the_database_had_stored_when_the_run_was_killed_counts_once(
    known: Store, folder: Path, began: Callable[[], Books], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        books = began()
        work(books)
        with monkeypatch.context() as killed:
            killed.setattr(books._ahead, "drop", lambda _: None)
            await books.write()
        work(books, 5)
        await written()
        assert files(folder) == [".1", ".2", ".lock"]
        kill(books)
        assert began().ledger.account("anna") == Account(15, 0)
        assert files(folder) == [".lock"]

    run(test())


def test_what_came_while_the_database_was_away_is_stored_in_order(
    known: Store, folder: Path, began: Callable[[], Books]
) -> None:
    async def test() -> None:
        books = began()
        work(books)
        with known.begin() as session:
            session.execute(text("ALTER TABLE accounts RENAME TO hidden"))
        for _ in range(2):
            with pytest.raises(StoreError):
                await books.write()
            work(books, 7)
            await written()
        assert files(folder) == [".1", ".2", ".lock"]
        kill(books)
        with pytest.raises(StoreError):
            began()
        with known.begin() as session:
            session.execute(text("ALTER TABLE hidden RENAME TO accounts"))
        assert began().ledger.account("anna") == Account(24, 0)

    run(test())


def test_a_run_that_goes_on_is_left_in_peace(known: Store, folder: Path, began: Callable[[], Books]) -> None:
    async def test() -> None:
        one = began()
        work(one)
        await written()
        other = began()
        assert other.ledger.account("anna") == Account(0, 0)
        work(other, 5)
        for books in (one, other):
            await books.write()
        assert Books(known).ledger.account("anna") == Account(15, 0)

    run(test())


def test_what_belongs_to_another_database_waits_for_it_a_month(
    known: Store, folder: Path, tmp_path: Path, began: Callable[[], Books]
) -> None:
    async def test() -> None:
        books = began()
        work(books)
        await written()
        kill(books)
        left = only_batch(folder)
        elsewhere = open_store(f"sqlite:///{tmp_path}/other.db")
        other = Books(elsewhere, ahead=folder)
        assert other.recovered == {}
        kill(other)
        assert left.exists()
        os.utime(left, (0, 0))
        other = Books(elsewhere, ahead=folder)
        kill(other)
        elsewhere.close()
        assert not left.exists()
        assert began().recovered == {}

    run(test())


def test_where_the_writer_was_killed_the_rest_is_not_read(
    known: Store, folder: Path, began: Callable[[], Books]
) -> None:
    async def test() -> None:
        books = began()
        for credits in (10, 5):
            work(books, credits)
            await written()
        kill(books)
        left = only_batch(folder)
        left.write_bytes(left.read_bytes()[:-1])
        assert began().ledger.account("anna") == Account(10, 0)

    run(test())


def test_what_cannot_be_read_is_kept_and_told(
    known: Store, folder: Path, began: Callable[[], Books], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        books = began()
        work(books)
        await written()
        kill(books)
        left = only_batch(folder)
        left.write_bytes((5).to_bytes(4, "big") + b"wrong")
        assert began().recovered == {}
        assert f"Credits in {left} cannot be read, and are not stored" in caplog.text
        assert left.exists()

    run(test())


def test_a_long_file_is_written_anew(
    known: Store, folder: Path, began: Callable[[], Books], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead, "_MOST_BYTES", 1000)

    async def test() -> None:
        books = began()
        sizes = []
        for _ in range(200):
            work(books, 1)
            await written()
            left = only_batch(folder)
            sizes.append(left.stat().st_size)
        assert 900 < max(sizes) < 1200
        kill(books)
        assert began().ledger.account("anna") == Account(200, 0)

    run(test())


class Full:
    """A file on a full disk."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)

    def write(self, data: bytes) -> int:
        return self._file.write(data[:3])

    def close(self) -> None:
        self._file.close()


def test_a_full_disk_is_told_once_and_what_it_did_not_take_is_written_later(
    known: Store, folder: Path, began: Callable[[], Books], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        books = began()
        assert books._ahead is not None
        for _ in range(3):
            books._ahead._file = Full(books._ahead._path(1))  # type: ignore[assignment]
            work(books)
            await written()
        work(books, 5)
        await written()
        kill(books)
        assert began().ledger.account("anna") == Account(35, 0)

    run(test())
    told = [record.message for record in caplog.records]
    assert told == [f"A coordinator that is killed now loses its last credits: {os.strerror(errno.ENOSPC)}"]


@pytest.mark.skipif(os.name == "nt", reason="Windows lets nobody read this as a folder, and says it otherwise.")
def test_without_a_folder_the_books_are_kept_all_the_same(
    known: Store, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.touch()
    books = Books(known, ahead=folder)
    work(books)
    run(books.write())
    assert Books(known).ledger.account("anna") == Account(10, 0)
    assert "A coordinator that is killed now loses its last credits: " in caplog.text
