"""The registry's tables, and transactions on them. Migrations run under a lock when a database is opened.

SQLite by default, in WAL mode, synced at each commit; writers begin with the write lock, so that none has to be
repeated. PostgreSQL by URL, where a row that every writer locks first does the same.
"""

import contextlib
import fcntl
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import exc

from serving.errors import ConfigError, Unavailable

BUSY_S = 30.0  # how long a writer waits for another
CONNECT_S = 5  # for a server to take a connection
SILENT_S = 15  # after which a server that acknowledges nothing is gone
logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of every opening
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
routing = sa.Table(  # one row: the table that the gateways use
    "routing", tables, sa.Column("generation", sa.Integer), sa.Column("document", sa.Text)
)
orders = sa.Table(  # of the monitors' judge; rows are never changed
    "orders",
    tables,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("time", sa.Float(53)),
    sa.Column("by", sa.Text),
    sa.Column("why", sa.Text),
    sa.Column("model", sa.String(63)),
    sa.Column("version", sa.String(63)),
    sa.Column("kind", sa.String(31)),
    sa.Column("reference", sa.String(64)),  # that the order brings, else empty
    sa.Column("replaced", sa.String(64)),  # that held until then
    sa.Column("rows", sa.Text),  # of which the reference is
)
sidecars = sa.Table(
    "sidecars",
    tables,
    sa.Column("node", sa.String(255), primary_key=True),
    sa.Column("address", sa.Text),
    sa.Column("heard_at", sa.Float(53)),  # by the database's clock
)
judge = sa.Table(  # one row: who adds up the evidence of all nodes, and until when, by the database's clock
    "judge", tables, sa.Column("token", sa.Integer), sa.Column("node", sa.String(255)), sa.Column("until", sa.Float(53))
)
evidence = sa.Table(
    "evidence",
    tables,
    sa.Column("kind", sa.String(63), primary_key=True),
    sa.Column("key", sa.String(511), primary_key=True),
    sa.Column("value", sa.LargeBinary),
)


@dataclass(frozen=True)
class Layout:
    """Of the tables: what a database has (None: nothing yet), and what this Gaugeway makes of it."""

    found: str | None
    newest: str
    known: bool  # else a newer Gaugeway made it


class Database:
    """Transactions on the registry's database. Raises Unavailable when it cannot be reached or written.

    `later`: who opens it can go on without for a while; it is then first looked at by the first transaction.
    """

    def __init__(self, url: str, *, later: bool = False) -> None:
        self._url = _parsed(url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        if self._sqlite and self._url.database:
            with self._reachable():
                Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = _sqlite_engine(self._url) if self._sqlite else _server_engine(self._url)
        self._writing = self._engine.execution_options(writes=True)
        if not self._sqlite:  # a writer reads what was committed before it got its guard, a reader sees one moment
            self._engine = self._engine.execution_options(isolation_level="REPEATABLE READ")
        self._opened = False
        if not later:
            self._open()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """All that is read within is of one moment."""
        self._open()
        with self._reachable(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, guard: sa.Table | None = generation) -> Iterator[sa.Connection]:
        """A transaction that no other one with this guard runs beside; committed when the block ends, rolled back
        when it raises. In PostgreSQL the guard's rows are locked, SQLite has one writer at a time anyway.
        """
        self._open()
        with self._reachable(), self._writing.begin() as connection:
            if not self._sqlite and guard is not None:
                connection.execute(sa.select(guard).with_for_update())
            yield connection

    def now(self, connection: sa.Connection) -> float:
        """Seconds since 1970 by the one clock that all nodes share."""
        if self._sqlite:  # which all who open it run on one machine with
            return time.time()
        return float(connection.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())")) or 0)

    def _open(self) -> None:
        if not self._opened:
            self._migrate()
            self._opened = True

    def _migrate(self) -> None:
        script, known = _script()
        if (found := self._revision()) == known[0]:
            return
        if found is not None and found not in known:
            raise Unavailable(
                f"registry {self._url.render_as_string()} has schema {found!r}, this Gaugeway knows up to {known[0]!r};"
                " it was opened by a newer one"
            )
        with self._alone(), self._reachable(), self._writing.begin() as connection:
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


def _parsed(url: str) -> sa.URL:
    """Of PostgreSQL's drivers the one that the extra `postgres` brings, unless the URL names another."""
    parsed = sa.make_url(url)
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _server_engine(url: sa.URL) -> sa.Engine:
    """PostgreSQL: a connection a transaction. Replicas that idle hold none, and none is stale after a failover."""
    if url.get_backend_name() != "postgresql":
        raise ConfigError(f"[registry] database: expected a URL of sqlite or postgresql, got {url.drivername!r}")
    waits = {"connect_timeout": CONNECT_S, "tcp_user_timeout": 1000 * SILENT_S, "keepalives_idle": SILENT_S}
    try:
        return sa.create_engine(url, poolclass=sa.NullPool, connect_args=waits)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"[registry] database is PostgreSQL, which needs {error.name}: install gaugeway[postgres]"
        ) from None


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


def layout(url: str) -> Layout:
    """Looks only: nothing is made and nothing migrated. Raises Unavailable when the database cannot be reached."""
    _, known = _script()
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return Layout(None, known[0], True)
    try:
        with sa.create_engine(parsed, poolclass=sa.NullPool).connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
    except exc.SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise Unavailable(f"registry {parsed.render_as_string()}: {cause}") from error
    return Layout(found, known[0], found is None or found in known)


def _script() -> tuple[AlembicConfig, list[str]]:
    """The migrations, and their names from the newest on."""
    script = AlembicConfig()
    script.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return script, [revision.revision for revision in ScriptDirectory.from_config(script).walk_revisions()]
