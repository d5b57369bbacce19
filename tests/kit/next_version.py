"""Runs a command of Potluck as a later version would be: what coordinators tell each other has more fields and kinds,
and the database has one more column. `python next_version.py serve …`
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from shutil import copytree

sys.path.insert(0, str(Path(__file__).parent.parent))

from msgspec import Struct

import potluck
from potluck.cli import main
from potluck.coordinator.fleet import fleet, passes, records
from potluck.coordinator.members import schema

VERSION = "99.0.0"

_MIGRATION = '''"""A note for each account."""

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = {before!r}


def upgrade() -> None:
    op.add_column("accounts", sa.Column("note", sa.Text(), server_default=""))
'''


class LaterModel(records.ModelRecord, frozen=True):
    colour: str = "blue"


class LaterRecord(records.Record, frozen=True):
    region: str = "eu"


class LaterPass(passes.Pass, frozen=True):
    purpose: str = "answer"


class Weather(Struct, frozen=True, tag="weather"):
    is_fine: bool = True


async def _tell_weather(told: fleet.Fleet, now: float) -> None:
    await _renew(told, now)
    await told._tell(Weather())  # type: ignore[arg-type]


_renew = fleet.Fleet._renew


def _later_migrations() -> Path:
    """The migrations with one more."""
    folder = Path(tempfile.mkdtemp(prefix="potluck-migrations-")) / "migrations"
    copytree(schema.MIGRATIONS, folder)
    latest = sorted((folder / "versions").glob("v*.py"))[-1].name[1:5]
    (folder / "versions" / "v9999_later.py").write_text(_MIGRATION.format(before=latest))
    return folder


def run() -> None:
    fleet.__version__ = potluck.__version__ = VERSION
    fleet.Record = LaterRecord  # type: ignore[misc]
    fleet.Fleet._renew = _tell_weather  # type: ignore[assignment, method-assign]
    passes.Pass = LaterPass  # type: ignore[misc]
    schema.upgrade.__defaults__ = (_later_migrations(),)
    main()


if __name__ == "__main__":
    run()
