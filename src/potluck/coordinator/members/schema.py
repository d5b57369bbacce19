"""The version of the database's schema. `serve` upgrades an older one and refuses a newer one."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from potluck import __version__
from potluck.coordinator.members.sqlite import READS
from potluck.errors import StoreError

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"

FIRST = "0001"
_TABLES_OF_FIRST = frozenset({"accounts", "api_keys", "invites", "nodes"})

_LOCK = 0x706F746C75636B
"""The word "potluck" as a number, because PostgreSQL knows its advisory locks by numbers."""


def upgrade(engine: Engine, migrations: Path = MIGRATIONS) -> None:
    """Upgrade the database to the newest revision of `migrations`. An SQLite file is copied before it is changed.

    Everything happens in one transaction, and coordinators that start together wait for each other. Where there is
    nothing to upgrade, nothing is written.
    Raises StoreError when the schema is newer than this program, or when the file cannot be copied.
    """
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    if _is_newest(engine, config):
        return
    with engine.connect() as connection, _unchecked(connection), connection.begin():
        config.attributes["connection"] = connection
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        _upgrade(connection, config)


def _is_newest(engine: Engine, config: Config) -> bool:
    with engine.execution_options(**{READS: True}).connect() as connection:
        stamps = MigrationContext.configure(connection).get_current_heads()
    return stamps == (ScriptDirectory.from_config(config).get_current_head(),)


def revision_of(stamps: Collection[str], tables: Collection[str], known: Collection[str]) -> str | None:
    """The revision of a database, from the stamps and tables in it; None if it is empty.

    known: the revisions that this program has. Raises StoreError when the database has another one.
    """
    if unknown := set(stamps).difference(known):
        raise StoreError(
            f"Potluck {__version__} does not know the database's schema {', '.join(sorted(unknown))}: "
            "install the newer version that made it, or start with a copy from before."
        )
    if not stamps:  # the first databases had no stamp
        return FIRST if _TABLES_OF_FIRST.issubset(tables) else None
    [revision] = stamps
    return revision


def _upgrade(connection: Connection, config: Config) -> None:
    script = ScriptDirectory.from_config(config)
    stamps = MigrationContext.configure(connection).get_current_heads()
    known = [each.revision for each in script.walk_revisions()]
    revision = revision_of(stamps, inspect(connection).get_table_names(), known)
    newest = script.get_current_head()
    if revision is not None and revision != newest:
        _announce(revision, newest, _copy(connection, revision))
    if revision is not None and not stamps:
        command.stamp(config, revision)
    if revision != newest:
        command.upgrade(config, "head")
        _check(connection)


def _announce(revision: str, newest: str | None, copy: Path | None) -> None:
    kept = "" if copy is None else f" The database as it was is kept as {copy}."
    log.info("The database's schema is upgraded from %s to %s.%s", revision, newest, kept)


def _copy(connection: Connection, revision: str) -> Path | None:
    """Copy the SQLite file as it was before this transaction. Returns the copy, named after its revision; None if there
    is none.

    A copy of the same revision is replaced, because it is from before a return to an older version.
    """
    if (file := _file(connection)) is None:
        return None
    copy = file.with_name(f"{file.name}.{revision}")
    part = file.with_name(f"{copy.name}.part")
    try:
        part.unlink(missing_ok=True)
        part.touch(mode=0o600)
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(part)) as target:
            source.backup(target)
        part.replace(copy)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"The database cannot be copied to {copy} before it is upgraded: {error}.") from error
    return copy


def _file(connection: Connection) -> Path | None:
    """The file in which SQLite keeps the database; None if it is in memory, or in another system."""
    if connection.dialect.name != "sqlite":
        return None
    files = {name: file for _, name, file in connection.exec_driver_sql("PRAGMA database_list")}
    return Path(files["main"]) if files["main"] else None


@contextmanager
def _unchecked(connection: Connection) -> Iterator[None]:
    """Turn off SQLite's check of references, because it changes a table by making it anew, and rows that refer to it
    must stay.

    SQLite accepts this only outside of transactions, so the driver is told.
    """
    driver = connection.connection.driver_connection
    if connection.dialect.name != "sqlite" or driver is None:
        yield
        return
    driver.execute("PRAGMA foreign_keys = OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys = ON")


def _check(connection: Connection) -> None:
    """Check what was not checked in the meantime. Raises StoreError, which undoes the upgrade."""
    if connection.dialect.name != "sqlite":
        return
    if lost := connection.exec_driver_sql("PRAGMA foreign_key_check").all():
        raise StoreError(f"The database cannot be upgraded: {len(lost)} of its rows would refer to rows that are gone.")
