"""A PostgreSQL of one's own for tests: a cluster in a temporary folder, on a unix socket and a free loopback port."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

import sqlalchemy as sa

NOBODY = "postgres"  # the server refuses to run as root


def programs() -> Path | None:
    """Where Debian puts `initdb` and `postgres`, which are in no PATH."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in reversed(places) if (place / "initdb").exists()), None)


class Server:
    """One that runs; `url` is that of its first database."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bin = programs() or Path()
        self._root = os.geteuid() == 0
        if self._root:
            shutil.chown(folder, NOBODY)
        self._call("initdb", "--pgdata", str(folder / "data"), "--auth", "trust", "--username", "gaugeway", "--no-sync")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"postgresql://gaugeway@127.0.0.1:{self.port}/postgres"
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self._folder} -c fsync=off -c max_connections=60"
        self._control("start", "-w", "-o", options, "-l", str(self._folder / "log"))

    def stop(self, mode: str = "immediate") -> None:
        self._control("stop", "-w", "-m", mode)

    def database(self, name: str) -> str:
        """A new database; its URL."""
        engine = sa.create_engine(self.url.replace("postgresql", "postgresql+psycopg", 1), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
        engine.dispose()
        return self.url.replace("/postgres", f"/{name}")

    def _control(self, action: str, *more: str) -> None:
        self._call("pg_ctl", action, "--pgdata", str(self._folder / "data"), *more)

    def _call(self, program: str, *arguments: str) -> None:
        who = ["runuser", "-u", NOBODY, "--"] if self._root else []
        with (self._folder.parent / f"{self._folder.name}.out").open("ab") as output:
            subprocess.run(
                [*who, str(self._bin / program), *arguments], stdout=output, stderr=output, timeout=60, check=True,
                cwd=self._folder,
            )  # fmt: skip


@contextmanager
def running() -> Iterator[Server]:
    folder = Path(mkdtemp(prefix="gaugeway-postgres-"))
    try:
        server = Server(folder)
        try:
            yield server
        finally:
            with suppress(subprocess.CalledProcessError):  # a test may have stopped it
                server.stop()
    finally:
        shutil.rmtree(folder)
        folder.with_name(f"{folder.name}.out").unlink(missing_ok=True)
