"""Connections to an SQLite file: only its owner can read it, its readers wait for nobody, and it can be read
even where nothing can be written.
"""

from __future__ import annotations

import os
import sqlite3
from glob import escape
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from potluck.wire.private import tighten

READS = "potluck_reads"
"""The execution option of connections that only read."""

_BUSY_S = 10.0
"""The number of seconds that a writer waits for another."""

_SEALED = "sealed"
"""The mark of a connection that cannot write. It serves once, because the next one may be able to."""

_UNWRITABLE = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL}
"""What SQLite says of a full disk and of a folder that can only be read."""


def open_engine(url: URL) -> Engine:
    """An engine for the database at this URL. Raises OSError when its file can be neither found nor made."""
    file = Path(url.database or ":memory:")
    if file.name != ":memory:" and not url.query:
        _keep_private(file.resolve())
    engine = create_engine(url, connect_args={"timeout": _BUSY_S})
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "checkin", _check_in)
    event.listen(engine, "begin", _begin)
    return engine


def _keep_private(file: Path) -> None:
    """Make the file if it does not exist, and let nobody else read it, its copies and what SQLite keeps beside it."""
    if not file.exists():
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite would let everybody read it
    beside = [file.with_name(f"{file.name}{end}") for end in ("", "-wal", "-shm", "-journal")]
    for each in (*beside, *file.parent.glob(f"{escape(file.name)}.[0-9]*")):  # copies are named after their revision
        tighten(each)


def _connect(dialect: Any, record: Any, arguments: Any, named: dict[str, Any]) -> sqlite3.Connection:
    connection: sqlite3.Connection = dialect.connect(*arguments, **named)
    # The driver would begin transactions at the first write: two that have read before could not both go on.
    connection.isolation_level = None
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        connection.close()
        file = Path(arguments[0]).resolve()  # SQLite keeps its other files beside what a link leads to
        if error.sqlite_errorcode & 0xFF not in _UNWRITABLE:
            raise
        if not _is_whole(file):
            raise sqlite3.OperationalError(
                f"{error}; its latest changes need room in {file.parent} to be read"
            ) from error
        record.info[_SEALED] = True
        connection = dialect.connect(f"{file.as_uri()}?immutable=1", **{**named, "uri": True})
        connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _is_whole(file: Path) -> bool:
    """Whether all of the database is in this file. After a crash its latest changes, such as the revocation of a key,
    are still beside it.
    """
    beside = [file.with_name(f"{file.name}{end}") for end in ("-wal", "-journal")]
    return not any(each.exists() and each.stat().st_size for each in beside)


def _check_in(_: object, record: Any) -> None:
    if record.info.pop(_SEALED, False):
        record.invalidate()


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get(READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
