"""The state that outlives the coordinator: accounts, API keys, invites and known nodes, in SQLite or PostgreSQL.

Times are Unix seconds. Of secrets only the SHA-256 is stored. Several coordinators may share one database.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from sqlalchemy import BigInteger, Engine, ForeignKey, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from potluck.coordinator.members import schema, sqlite
from potluck.errors import StoreError
from potluck.wire.private import make_folder

_CONNECTION_FAULTS = "08"
_SHUTDOWNS = {"57P01", "57P02", "57P03"}
"""What PostgreSQL says of connections: a class of codes, and the codes of a server that stops, crashes or starts."""

_LIMITS = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "keepalives_idle": 5, "keepalives_interval": 5}
"""The limits of connections to PostgreSQL, whose machine may be gone without a word: seconds until it must have
answered, milliseconds until it must have taken what is sent, and seconds between questions whether it is there.
"""


class Base(DeclarativeBase):
    type_annotation_map = {int: BigInteger}


class AccountRow(Base):
    """An account. Credits are layer-tokens: positions times layers."""

    __tablename__ = "accounts"

    name: Mapped[str] = mapped_column(primary_key=True)
    earned: Mapped[int] = mapped_column(default=0)
    spent: Mapped[int] = mapped_column(default=0)


class KeyRow(Base):
    """An API key. per_minute: requests; None means any number. models: names, a line each; None means all models."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)
    account: Mapped[str]
    admin: Mapped[bool]
    per_minute: Mapped[int | None]
    created: Mapped[float]
    revoked: Mapped[bool] = mapped_column(default=False)
    models: Mapped[str | None] = mapped_column(default=None)


class InviteRow(Base):
    """An invite. uses_left, expires: None means no limit. account: that of its nodes; None means their own."""

    __tablename__ = "invites"

    id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)
    account: Mapped[str | None]
    uses_left: Mapped[int | None]
    expires: Mapped[float | None]
    created: Mapped[float]
    revoked: Mapped[bool] = mapped_column(default=False)


class NodeRow(Base):
    """A known node. key: its public key, in hex. pending: credits that no audit has covered yet."""

    __tablename__ = "nodes"

    key: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str]
    name: Mapped[str]
    invite: Mapped[str | None] = mapped_column(ForeignKey("invites.id"))
    first_seen: Mapped[float]
    last_seen: Mapped[float]
    trusted: Mapped[bool] = mapped_column(default=False)
    revoked: Mapped[bool] = mapped_column(default=False)
    pending: Mapped[int] = mapped_column(default=0)
    audits_passed: Mapped[int] = mapped_column(default=0)
    audits_failed: Mapped[int] = mapped_column(default=0)
    quarantine: Mapped[str] = mapped_column(default="")
    quarantined_until: Mapped[float] = mapped_column(default=0.0)


class BookingRow(Base):
    """The last changes that one run of a coordinator has booked. run: its random name. number: that of the changes."""

    __tablename__ = "bookings"

    run: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    booked: Mapped[float]


class Store:
    """Hands out transactions, which are short. Those of PostgreSQL cross a network, so do not use the event loop's
    thread.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sessions = sessionmaker(engine, expire_on_commit=False)
        self._readings = sessionmaker(_reading(engine), expire_on_commit=False)

    @property
    def name(self) -> str:
        """A name for the database at this place, without secrets, in hex."""
        url = self._engine.url
        return digest_of(f"{url.get_backend_name()}://{url.host}:{url.port}/{url.database}")[:16]

    def begin(self) -> AbstractContextManager[Session]:
        """One transaction, which is kept when the block ends and undone when it raises. Raises StoreError."""
        return self._transaction(self._sessions)

    def read(self) -> AbstractContextManager[Session]:
        """Questions that change nothing, wait for nobody and need no room on the disk. Raises StoreError."""
        return self._transaction(self._readings)

    @contextmanager
    def _transaction(self, sessions: sessionmaker[Session]) -> Iterator[Session]:
        try:
            with sessions.begin() as session:
                yield session
        except SQLAlchemyError as error:
            raise StoreError(f"The database failed: {_reason(error)}.", is_away=_is_away(error)) from error

    def close(self) -> None:
        self._engine.dispose()


def open_store(url: str) -> Store:
    """Open the database at this URL, such as `sqlite:////home/anna/potluck.db` or `postgresql://anna@host/potluck`.

    Its schema is brought up to date. Raises StoreError when it cannot be opened, or is newer than this program.
    """
    try:
        return Store(_upgraded(_engine(url)))
    except ArgumentError as error:  # its text may hold the password
        raise StoreError("--database must be the URL of a database, such as postgresql://anna@host/potluck.") from error
    except ModuleNotFoundError as error:
        message = f"This database needs the package {error.name}: pip install 'potluck[postgres]' brings PostgreSQL's."
        raise StoreError(message) from error
    except SQLAlchemyError as error:
        raise StoreError(f"The database cannot be opened: {_reason(error)}.") from error
    except OSError as error:
        raise StoreError(f"The database cannot be opened: {error.strerror or error}.") from error


def _upgraded(engine: Engine) -> Engine:
    try:
        schema.upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def open_file(file: Path) -> Store:
    """Open an SQLite file as the database; its folder is made if it does not exist. Raises StoreError."""
    try:
        make_folder(file.parent)
    except OSError as error:
        raise StoreError(f"The folder {file.parent} cannot be made: {error.strerror or error}.") from error
    return open_store(f"sqlite:///{file.absolute()}")


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return sqlite.open_engine(parsed)
    limits = _LIMITS if parsed.get_driver_name().startswith("psycopg") else {}
    given = {name: value for name, value in limits.items() if name not in parsed.query}
    return create_engine(parsed, pool_pre_ping=True, connect_args=given)


def _reading(engine: Engine) -> Engine:
    """The same engine, for questions only."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{sqlite.READS: True})
    # In its default isolation each question of a transaction sees a state of its own, so that one gains nothing by the
    # two round trips that it takes.
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def _reason(error: SQLAlchemyError) -> str:
    """The driver's own words on one line. SQLAlchemy's would add everything that was to be stored."""
    return " ".join(str(getattr(error, "orig", None) or type(error).__name__).split()).rstrip(".")


def _is_away(error: SQLAlchemyError) -> bool:
    """Whether it was the connection to a server that failed, not what was asked of it."""
    if not isinstance(error, DBAPIError) or isinstance(error.orig, sqlite3.Error):
        return False
    state: str | None = getattr(error.orig, "sqlstate", None)  # None: no server has said anything
    is_lost = state is None or state[:2] == _CONNECTION_FAULTS or state in _SHUTDOWNS
    return error.connection_invalidated or (isinstance(error, OperationalError) and is_lost)


def digest_of(secret: str) -> str:
    """The stored form of a secret. A secret is long and random, so it needs no salt, and looking it up reveals no part
    of it.
    """
    return hashlib.sha256(secret.encode()).hexdigest()
