"""An older database is upgraded, one without versions is recognised, and a newer one is refused."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, inspect

from kit.processes import PYTHON, speaking
from potluck.coordinator.members.schema import FIRST, MIGRATIONS, revision_of, upgrade
from potluck.coordinator.members.store import AccountRow, Base, InviteRow, KeyRow, NodeRow, open_store
from potluck.errors import StoreError

FIRST_SCHEMA = (Path(__file__).parents[2] / "data" / "first_schema.sql").read_text("utf-8")

NEXT = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade():
    # SQLite makes the table anew, although nodes refer to its rows.
    with op.batch_alter_table("invites", recreate="auto") as table:
        table.add_column(sa.Column("note", sa.String(), nullable=False, server_default="none"))
        table.alter_column("digest", type_=sa.Text())
"""
FAILING = NEXT + "    raise RuntimeError('halfway')\n"
LOSING = NEXT + "    op.execute('DELETE FROM invites')\n"

START = "import sys; from potluck.coordinator.members.store import open_store; open_store(sys.argv[1]).close()"


@contextmanager
def engine_of(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    with engine_of(url) as engine, engine.connect() as connection:
        yield connection


def make_first(url: str) -> None:
    """The database of a Potluck from before the schema had versions, with a row in each table."""
    script = FIRST_SCHEMA if url.startswith("sqlite") else FIRST_SCHEMA.replace("DOUBLE", "DOUBLE PRECISION")
    with engine_of(url) as engine, engine.begin() as connection:
        for statement in filter(str.strip, script.split(";")):
            connection.exec_driver_sql(statement)


def migrations(folder: Path, following: str = NEXT) -> Path:
    """Those of a Potluck that knows one revision more."""
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "v0004_next.py").write_text(following, "utf-8")
    return folder


def stamp(url: str) -> tuple[str, ...]:
    with connected(url) as connection:
        return MigrationContext.configure(connection).get_current_heads()


def newest() -> str | None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return ScriptDirectory.from_config(config).get_current_head()


def differences(url: str) -> list[object]:
    """Between the tables that are there and the models."""
    with connected(url) as connection:
        options = {"compare_type": True, "compare_server_default": True}
        found: list[object] = compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)
        return found


def first_rows(url: str) -> list[object]:
    """What `make_first` has stored, as the models read it."""
    with closing(open_store(url)) as store, store.begin() as session:
        account, key = session.query(AccountRow).one(), session.query(KeyRow).one()
        invite, node = session.query(InviteRow).one(), session.query(NodeRow).one()
        return [account.earned, key.digest, key.admin, invite.uses_left, node.invite, node.last_seen]


ROWS = [1200, "aa", False, 2, "5a1e0c3f", 1750000600.0]


def test_an_empty_database_gets_the_schema_of_the_models(database: str) -> None:
    open_store(database).close()
    assert differences(database) == []
    assert stamp(database) == (newest(),)


def test_a_database_from_before_the_versions_is_recognised_and_keeps_its_rows(database: str) -> None:
    make_first(database)
    assert first_rows(database) == ROWS
    assert differences(database) == []
    assert stamp(database) == (newest(),)


def test_what_is_up_to_date_is_not_copied(database: str, tmp_path: Path) -> None:
    open_store(database).close()
    open_store(database).close()
    assert [*tmp_path.glob("potluck.db.0*")] == []


@pytest.mark.parametrize("stamped", [False, True], ids=["from before the versions", "stamped"])
def test_an_old_database_is_upgraded_and_an_sqlite_file_is_copied_before(
    database: str, tmp_path: Path, stamped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    make_first(database)
    if stamped:
        open_store(database).close()
    with engine_of(database) as engine, caplog.at_level(logging.INFO, "potluck"):
        upgrade(engine, migrations(tmp_path / "newer"))
        assert "note" in {column["name"] for column in inspect(engine).get_columns("invites")}
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT id, note FROM invites").all() == [("5a1e0c3f", "none")]
            assert connection.exec_driver_sql("SELECT invite FROM nodes").all() == [("5a1e0c3f",)]
    assert stamp(database) == ("0004",)
    before = "0003" if stamped else "0001"
    told = caplog.messages[-1]
    assert told.startswith(f"The database's schema is upgraded from {before} to 0004.")
    if not database.startswith("sqlite"):
        return
    copy = tmp_path / f"potluck.db.{before}"
    assert told.endswith(f" is kept as {copy}.")
    assert stamp(f"sqlite:///{copy}") == (("0003",) if stamped else ())
    assert first_rows(f"sqlite:///{copy}") == ROWS


def test_a_copy_is_as_private_as_the_database(tmp_path: Path) -> None:
    make_first(f"sqlite:///{tmp_path}/potluck.db")
    (tmp_path / "potluck.db").chmod(0o600)
    with engine_of(f"sqlite:///{tmp_path}/potluck.db") as engine:
        upgrade(engine, migrations(tmp_path / "newer"))
    assert (tmp_path / "potluck.db.0001").stat().st_mode & 0o777 == 0o600


def test_a_newer_database_is_refused_and_left_as_it_is(database: str, tmp_path: Path) -> None:
    with engine_of(database) as engine:
        upgrade(engine, migrations(tmp_path / "newer"))
    with pytest.raises(StoreError, match=r"^Potluck \S+ does not know the database's schema 0004: install .*\.$"):
        open_store(database)
    assert stamp(database) == ("0004",)


def test_an_upgrade_that_fails_changes_nothing(database: str, tmp_path: Path) -> None:
    make_first(database)
    with engine_of(database) as engine, pytest.raises(RuntimeError, match="halfway"):
        upgrade(engine, migrations(tmp_path / "newer", FAILING))
    assert stamp(database) == ()
    assert first_rows(database) == ROWS


def test_an_upgrade_that_loses_rows_to_which_others_refer_is_undone(tmp_path: Path) -> None:
    """PostgreSQL refuses it by itself; SQLite does not look while tables are made anew."""
    database = f"sqlite:///{tmp_path}/potluck.db"
    make_first(database)
    with engine_of(database) as engine, pytest.raises(StoreError, match="1 of its rows would refer to rows that are"):
        upgrade(engine, migrations(tmp_path / "newer", LOSING))
    assert first_rows(database) == ROWS


def test_foreign_keys_are_looked_after_again_when_the_schema_is_up_to_date(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/potluck.db")) as store, store.begin() as session:
        assert session.connection().exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_file_that_cannot_be_copied_is_not_upgraded(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/potluck.db"
    make_first(database)
    (tmp_path / "potluck.db.0001").mkdir()
    with engine_of(database) as engine, pytest.raises(StoreError, match=r"cannot be copied to .*potluck\.db\.0001 "):
        upgrade(engine, migrations(tmp_path / "newer"))
    assert stamp(database) == ()


@pytest.mark.parametrize("old", [False, True], ids=["an empty database", "an old database"])
def test_coordinators_that_start_together_wait_for_each_other(database: str, old: bool) -> None:
    if old:
        make_first(database)
    starts = [speaking(*PYTHON, "-c", START, database) for _ in range(3)]
    told = [start.communicate()[1] for start in starts]
    assert [start.returncode for start in starts] == [0, 0, 0], told
    assert stamp(database) == (newest(),)
    assert differences(database) == []


@pytest.mark.parametrize(
    ("stamps", "tables", "revision"),
    [
        ([], [], None),
        ([], ["accounts", "api_keys", "invites", "nodes"], FIRST),
        ([], ["accounts", "api_keys", "invites", "nodes", "another_program"], FIRST),
        ([], ["accounts"], None),
        (["0002"], ["accounts", "alembic_version"], "0002"),
    ],
)
def test_which_revision_a_database_has(stamps: list[str], tables: list[str], revision: str | None) -> None:
    assert revision_of(stamps, tables, ["0004", "0003", "0002", "0001"]) == revision


def test_a_database_in_which_only_some_tables_are_there_is_refused(database: str) -> None:
    with engine_of(database) as engine, engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE nodes (name VARCHAR)")
    with pytest.raises(StoreError, match=r"The database cannot be opened: .*already exists"):
        open_store(database)
    assert stamp(database) == ()


def test_the_revisions_follow_each_other_and_their_files_are_named_after_them() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = list(ScriptDirectory.from_config(config).walk_revisions())
    numbers = [f"{number:04}" for number in range(len(scripts), 0, -1)]
    assert [script.revision for script in scripts] == numbers
    assert [re.match(r"v(\d{4})_\w+\.py$", Path(script.path).name)[1] for script in scripts] == numbers  # type: ignore[index]
    assert all(script.doc and script.doc != "No documentation" for script in scripts)
