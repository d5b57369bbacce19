"""What a coordinator that was killed had not stored yet, its next run stores."""

import asyncio
import errno
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import event, text

from kit.runner import run
from potluck.coordinator.members import write_ahead
from potluck.coordinator.members.books import Books
from potluck.coordinator.members.ledger import Account
from potluck.coordinator.members.members import Members
from potluck.coordinator.members.store import Store, open_store
from potluck.errors import StoreError
from potluck.local import HANG_S

ANNA = b"a" * 32


@pytest.fixture
def folder(known: Store, tmp_path: Path) -> Path:
    """The folder of the logs for this database."""
    return tmp_path / "credits" / known.name


@pytest.fixture
def began(known: Store, folder: Path) -> Iterator[Callable[[], Books]]:
    """Begins a run."""
    books: list[Books] = []

    def begin() -> Books:
        books.append(Books(known, ahead=folder.parent))
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


async def die_at_work(books: Books) -> None:
    work(books)
    await written()
    kill(books)


def locks(folder: Path) -> list[Path]:
    return list(folder.glob("*.lock"))


def files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir() if path.suffix)


def test_what_a_killed_process_had_not_stored_is_stored_by_the_next(known: Store, database: str, folder: Path) -> None:
    script = f"""
import asyncio, os, pathlib, signal
from potluck.coordinator.members.books import Books
from potluck.coordinator.members.store import open_store

async def test():
    books = Books(open_store({database!r}), ahead=pathlib.Path({str(folder.parent)!r}))
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
    books = Books(known, ahead=folder.parent)
    assert books.ledger.account("anna") == Account(42, 4)
    assert books.recovered == {"anna": (42, 4)}
    [member] = Members(known).with_keys([ANNA.hex()])
    assert books.ledger.pending(member.account) == 100
    assert (member.audits_passed, member.audits_failed) == (1, 1)
    assert files(folder) == [".lock"]  # its own
    kill(books)
    again = Books(known, ahead=folder.parent)
    assert (again.ledger.account("anna"), again.recovered) == (Account(42, 4), {})
    kill(again)


def test_a_run_that_ends_leaves_nothing(known: Store, folder: Path) -> None:
    async def test() -> None:
        books = Books(known, every_s=1000, ahead=folder.parent)
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
            Books(known, ahead=folder.parent)
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


def test_what_belongs_to_another_database_waits_for_it(
    known: Store, folder: Path, tmp_path: Path, began: Callable[[], Books]
) -> None:
    async def test() -> None:
        await die_at_work(began())
        elsewhere = open_store(f"sqlite:///{tmp_path}/other.db")
        other = Books(elsewhere, ahead=folder.parent)
        assert other.recovered == {}
        other.close()
        elsewhere.close()
        assert began().recovered == {"anna": (10, 0)}

    run(test())


def test_what_is_so_old_that_its_number_may_be_forgotten_is_not_stored(
    known: Store, folder: Path, began: Callable[[], Books], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        await die_at_work(began())
        left = only_batch(folder)
        os.utime(left, (0, 0))
        assert began().recovered == {}
        assert not left.exists()
        assert f"{left} is removed: it is so old" in caplog.text

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


def framed(*entries: Any) -> bytes:
    data = msgspec.msgpack.encode(entries)
    return len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize(
    "damage",
    [
        bytes(64),
        framed()[:4] + b"\xc1",
        framed(["pending", {"a": 1}, 1]),
        framed(["settled", [b"a", "b", "c"], 1]),
        framed(["eaten", "anna", 1]),
        framed(["spent", "anna", "much"]),
        (7).to_bytes(4, "big") + b"\x91\x93\xa2\xff\xfe\xa1a",
    ],
    ids=["zeros", "no msgpack", "a map", "a list", "another count", "no number", "no text"],
)
def test_what_comes_before_damage_is_stored(
    known: Store, folder: Path, began: Callable[[], Books], caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    async def test() -> None:
        await die_at_work(began())
        left = only_batch(folder)
        left.write_bytes(left.read_bytes() + damage)
        assert began().ledger.account("anna") == Account(10, 0)
        assert not left.exists()
        assert [record.message for record in caplog.records] == [f"The end of {left} cannot be read, and is left out."]

    run(test())


def test_what_stands_in_the_way_of_one_run_is_told_and_the_others_are_recovered(
    known: Store, folder: Path, began: Callable[[], Books], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        await die_at_work(began())
        for name in ("0" * 32, "f" * 32):
            (folder / f"{name}.lock").mkdir()
        (folder / "notes.txt").touch()
        again = began()
        assert again.ledger.account("anna") == Account(10, 0)
        assert again._ahead is not None
        told = f"Credits that an earlier run has left in {folder} are not stored yet: "
        assert [record.message.startswith(told) for record in caplog.records] == [True, True]

    run(test())


def test_a_batch_without_its_lock_is_found(known: Store, folder: Path, began: Callable[[], Books]) -> None:
    async def test() -> None:
        await die_at_work(began())
        for lock in locks(folder):
            lock.unlink()
        assert began().ledger.account("anna") == Account(10, 0)

    run(test())


def test_runs_that_begin_at_the_same_time_do_not_disturb_each_other(
    known: Store, folder: Path, began: Callable[[], Books], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        left = [began() for _ in range(3)]
        for books in left:
            work(books)
        await written()
        for books in left:
            kill(books)
        with ThreadPoolExecutor(6) as threads:
            begun = list(threads.map(lambda _: began(), range(6)))
        assert {books._ahead is None for books in begun} == {False}
        assert Counter(str(books.recovered) for books in begun)["{}"] == 5
        assert Books(known).ledger.account("anna") == Account(30, 0)
        assert len(locks(folder)) == 6

    run(test())
    assert not caplog.records


def test_what_could_not_be_stored_after_all_is_not_taken_for_stored(
    known: Store, folder: Path, began: Callable[[], Books]
) -> None:
    left = [1]

    def fails(_: object) -> None:
        if left:
            left.pop()
            raise StoreError("The database failed: the disk is full.")

    async def test() -> None:
        await die_at_work(began())
        event.listen(known._engine, "commit", fails)
        assert began().recovered == {}
        event.remove(known._engine, "commit", fails)
        assert began().recovered == {"anna": (10, 0)}

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
    """A file on a full disk, which takes only a part of what is written. closes: whether it can be closed."""

    def __init__(self, path: Path, *, closes: bool = True) -> None:
        self._file = path.open("wb", buffering=0)
        self._closes = closes

    def tell(self) -> int:
        return self._file.tell()

    def write(self, data: bytes) -> int:
        return self._file.write(data[:3])

    def close(self) -> None:
        self._file.close()
        if not self._closes:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def fill_disk(books: Books, *, closes: bool = True) -> None:
    assert books._ahead is not None
    books._ahead._close_file()
    books._ahead._file = Full(books._ahead._path(1), closes=closes)  # type: ignore[assignment]


@pytest.mark.parametrize("closes", [True, False])
def test_a_full_disk_is_told_once_and_what_it_did_not_take_is_written_later(
    known: Store, folder: Path, began: Callable[[], Books], caplog: pytest.LogCaptureFixture, closes: bool
) -> None:
    caplog.set_level("INFO", logger=write_ahead.__name__)

    async def test() -> None:
        books = began()
        for _ in range(3):
            fill_disk(books, closes=closes)
            work(books)
            await written()
        work(books, 5)
        await written()
        kill(books)
        assert began().ledger.account("anna") == Account(35, 0)

    run(test())
    told = [record.message for record in caplog.records if "cannot be closed" not in record.message]
    assert told == [
        f"If this coordinator is killed now, credits that are not stored yet are lost: {os.strerror(errno.ENOSPC)}",
        "Credits that are not stored yet are kept on the disk again.",
    ]


def test_what_a_full_disk_did_not_take_is_written_before_the_next_batch(
    known: Store, folder: Path, began: Callable[[], Books]
) -> None:
    async def test() -> None:
        books = began()
        fill_disk(books)
        work(books)
        await written()
        with known.begin() as session:
            session.execute(text("ALTER TABLE accounts RENAME TO hidden"))
        with pytest.raises(StoreError):
            await books.write()
        work(books, 5)
        await written()
        kill(books)
        with known.begin() as session:
            session.execute(text("ALTER TABLE hidden RENAME TO accounts"))
        assert began().ledger.account("anna") == Account(15, 0)

    run(test())


def test_without_a_folder_the_books_are_kept_all_the_same(
    known: Store, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.touch()
    books = Books(known, ahead=folder.parent)
    work(books)
    run(books.write())
    assert Books(known).ledger.account("anna") == Account(10, 0)
    assert "If this coordinator is killed, credits that are not stored yet are lost: " in caplog.text
