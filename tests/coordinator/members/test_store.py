import socket
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from potluck.coordinator.members import store as module
from potluck.coordinator.members.store import AccountRow, Store, open_file, open_store
from potluck.errors import RequestError, StoreError


def earned(store: Store) -> dict[str, int]:
    with store.begin() as session:
        return {row.name: row.earned for row in session.scalars(select(AccountRow))}


def test_what_was_stored_is_there_when_the_database_is_opened_again(database: str) -> None:
    first = open_store(database)
    with first.begin() as session:
        session.add(AccountRow(name="anna", earned=1 << 40))
    first.close()
    again = open_store(database)
    assert earned(again) == {"anna": 1 << 40}
    again.close()


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    def fail() -> None:
        with store.begin() as session:
            session.add(AccountRow(name="anna"))
            raise RequestError("Not so.")

    with pytest.raises(RequestError):
        fail()
    assert earned(store) == {}


def test_writers_of_two_coordinators_wait_for_each_other(database: str) -> None:
    stores = [open_store(database), open_store(database)]
    with stores[0].begin() as session:
        session.add(AccountRow(name="anna"))

    def add(number: int) -> None:
        with stores[number % 2].begin() as session:
            session.get(AccountRow, "anna")
            session.execute(update(AccountRow).values(earned=AccountRow.earned + 1))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(40)))
    assert earned(stores[0]) == {"anna": 40}
    for store in stores:
        store.close()


def test_a_failure_of_the_database_is_one_sentence_without_what_was_to_be_stored(store: Store) -> None:
    def add() -> None:
        with store.begin() as session:
            session.execute(insert(AccountRow), [{"name": "anna", "earned": 123}] * 2)

    with pytest.raises(StoreError, match=r"^The database failed: .*\.$") as caught:
        add()
    assert "INSERT" not in str(caught.value)
    assert "123" not in str(caught.value)
    assert earned(store) == {}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("potluck.db", "--database must be the URL of a database"),
        ("postgresql://anna:s3cret@127.0.0.1:1/potluck", "The database cannot be opened: .*refused"),
        ("mysql://anna:s3cret@127.0.0.1/potluck", "This database needs the package MySQLdb"),
        ("sqlite:////nowhere/potluck.db", "The database cannot be opened: No such file or directory"),
    ],
)
def test_what_cannot_be_opened_is_refused_without_showing_a_password(url: str, told: str) -> None:
    with pytest.raises(StoreError, match=told) as caught:
        open_store(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("query", ["", "?connect_timeout=2"])
def test_a_server_that_says_nothing_is_not_waited_for(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not query:
        monkeypatch.setitem(module._LIMITS, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(StoreError, match=r"The database cannot be opened: .*timeout"):
            open_store(f"postgresql://anna@127.0.0.1:{port}/potluck{query}")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"The folder .*/file/folder cannot be made: Not a directory"):
        open_file(tmp_path / "file" / "folder" / "potluck.db")


def test_sqlite_lets_others_read_while_one_writes(tmp_path: Path) -> None:
    store = open_file(tmp_path / "a folder" / "potluck.db")
    store.close()
    with sqlite3.connect(tmp_path / "a folder" / "potluck.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
