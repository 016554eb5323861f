"""The registry's tables, and transactions on them. Migrations run under a lock when a database is opened.

SQLite by default, in WAL mode, synced at each commit; writers begin with the write lock, so that none has to be
repeated. PostgreSQL by URL.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import exc

from serving.errors import Unavailable

BUSY_S = 30.0  # how long a writer waits for another
_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x6A756765  # PostgreSQL advisory lock of the migrations

tables = sa.MetaData()
versions = sa.Table(
    "versions",
    tables,
    sa.Column("position", sa.Integer, primary_key=True),  # order of publication
    sa.Column("model", sa.String(63)),
    sa.Column("version", sa.String(63)),
    sa.Column("digest", sa.String(64)),
    sa.Column("manifest", sa.Text),
    sa.Column("published_at", sa.Float(53)),
)
desired = sa.Table(
    "desired", tables, sa.Column("model", sa.String(63), primary_key=True), sa.Column("document", sa.Text)
)
generation = sa.Table("generation", tables, sa.Column("value", sa.Integer))
changes = sa.Table(
    "changes",
    tables,
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("generation", sa.Integer),
    sa.Column("time", sa.Float(53)),
    sa.Column("by", sa.Text),
    sa.Column("why", sa.Text),
    sa.Column("model", sa.String(63)),
    sa.Column("before", sa.Text),
    sa.Column("after", sa.Text),
)


class Database:
    """Transactions on the registry's database. Raises Unavailable when it cannot be reached or written."""

    def __init__(self, url: str) -> None:
        self._url = sa.make_url(url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        if self._sqlite and self._url.database:
            with self._reachable():
                Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = _sqlite_engine(self._url) if self._sqlite else sa.create_engine(self._url, pool_pre_ping=True)
        self._migrate()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with self._reachable(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer runs beside; committed when the block ends, rolled back when it raises."""
        with self._reachable(), self._engine.execution_options(writes=True).begin() as connection:
            if not self._sqlite:
                connection.execute(sa.select(generation).with_for_update())
            yield connection

    def _migrate(self) -> None:
        script = AlembicConfig()
        script.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        known = [revision.revision for revision in ScriptDirectory.from_config(script).walk_revisions()]
        if (found := self._revision()) == known[0]:
            return
        if found is not None and found not in known:
            raise Unavailable(
                f"registry {self._url.render_as_string()} has schema {found!r}, this Gaugeway knows up to {known[0]!r};"
                " it was opened by a newer one"
            )
        with self._alone(), self._reachable(), self._engine.execution_options(writes=True).begin() as connection:
            script.attributes["connection"] = connection
            command.upgrade(script, "head")

    def _revision(self) -> str | None:
        with self._reachable(), self._engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """The lock of the migrations, among all processes that open this database."""
        if not self._sqlite:
            with self._reachable(), self._engine.connect() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_lock(_LOCK)))  # until the connection closes
                yield
                connection.execute(sa.select(sa.func.pg_advisory_unlock(_LOCK)))
            return
        with self._reachable(), open(f"{self._url.database}.lock", "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except (exc.OperationalError, exc.InterfaceError, exc.DatabaseError) as error:
            cause = getattr(error, "orig", None) or error
            raise Unavailable(f"registry {self._url.render_as_string()}: {cause}") from error
        except OSError as error:
            raise Unavailable(f"registry {self._url.render_as_string()}: {error.strerror}") from error


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"timeout": BUSY_S})

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin below, not where the driver guesses
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
